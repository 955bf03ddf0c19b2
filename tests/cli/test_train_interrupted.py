"""Ctrl-C at `m2gym train`, as a terminal sends it: to every process of its group."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="torch is in extra 'train'")

YAML = """
env: {id: tool-worlds, world: 5, questions: 64}
agent: {id: shots, shots: 1}
model: m2-nano
algorithm: {id: grpo, entropy: 0.01, schedule: {lag: 1, window: 1.0}}
backend: {id: local, device: cpu}
train: {steps: 400, groups: 1, group_size: 4, max_tokens: 12, lr: 1.0e-3, save_every: 1000}
"""


def start(path, *options):
    """The command in a group of its own; its last lines come through a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "m2gym", "train", str(path), *map(str, options)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # A shell's background job is started with SIGINT ignored, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def rows_of(out):
    """What must repeat of every update: all but times."""
    lines = (out / "metrics.jsonl").read_text("utf-8").splitlines()
    timed = ("seconds", "tokens_per_second")
    return [{k: v for k, v in json.loads(x).items() if not k.startswith(timed)} for x in lines]


def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path):
    path, parted, whole = tmp_path / "c.yaml", tmp_path / "parted", tmp_path / "whole"
    path.write_text(YAML)
    process = start(path, "--out", parted)
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if line.startswith("step 2/"):
            os.killpg(process.pid, signal.SIGINT)
            os.killpg(process.pid, signal.SIGINT)  # by who cannot wait
    assert process.wait() == 130, "".join(said)
    assert f"go on with --out {parted} --resume" in said[-1]
    assert "Traceback" not in "".join(said)
    done = rows_of(parted)
    saved = [p.name for p in (parted / "checkpoints").iterdir()]
    assert saved == [f"step-{len(done):06d}"], "no update is done twice"
    more = ("--set", f"train.steps={len(done) + 2}")
    for out, options in ((parted, (*more, "--resume")), (whole, more)):
        process = start(path, "--out", out, *options)
        said = process.communicate()[1]
        assert process.returncode == 0, said
    assert rows_of(parted) == rows_of(whole)
    assert len(rows_of(parted)) == len(done) + 2
    assert max(row["grad_norm"] for row in rows_of(parted)) > 0
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (parted, whole)]
    assert weights[0] == weights[1]
