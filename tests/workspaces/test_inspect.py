"""Inspect's self-check of sandboxes over ours; needs ``inspect_ai`` (``make test-peers``)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from m2gym.workspaces.bubblewrap import ability
from tests.workspaces.engine import engine_trouble

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def test_inspects_own_checks_pass_over_our_workspaces() -> None:
    pytest.importorskip("inspect_ai")
    kinds = [
        *(["local"] if ability().works else []),
        *(["docker"] if not engine_trouble() else []),
    ]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="),
            *("-p", "no:xdist", "tests/workspaces/inspect_self_check.py"),
        ],
        cwd=ROOT, env={**os.environ, "M2GYM_KINDS": ",".join(kinds)}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert f"{len(kinds)} xfailed" in done.stdout


def test_an_evaluation_of_inspects_runs_in_our_box(tmp_path: Path) -> None:
    """Found by the entry point, a box is made for a sample and gone after it."""
    pytest.importorskip("inspect_ai")
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import Score, Target, accuracy, scorer
    from inspect_ai.solver import Generate, TaskState, solver
    from inspect_ai.util import sandbox

    @scorer(metrics=[accuracy()])
    def who():  # type: ignore[no-untyped-def]
        async def score(state: TaskState, target: Target) -> Score:
            told = await sandbox().exec(["bash", "-c", "id -un; cat hello"])
            return Score(value=told.stdout == target.text)

        return score

    @solver
    def nothing():  # type: ignore[no-untyped-def]
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            return state

        return solve

    sample = Sample(input="x", target="agent\nhi", files={"hello": "hi"})
    task = Task(dataset=[sample], solver=nothing(), scorer=who(), sandbox="m2gym")
    (log,) = eval(
        task, model="mockllm/model", display="none", log_dir=os.environ.get("TMPDIR", "/tmp")
    )
    assert log.status == "success", log.error
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1
