"""``m2gym bench episode``: what an episode costs beside the plain alternative, in one run."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.blocking import run_blocking
from m2gym.core.errors import InputError
from m2gym.envs.catalog import env_entry
from m2gym.envs.episode import open_episode
from m2gym.rollout.evaluation import evaluate
from m2gym.rollout.run import Run


@dataclass(frozen=True)
class Figure:
    """One measured figure, what it should be, and what it is compared with."""

    name: str
    value: float
    unit: str
    target: str | None = None
    baseline: str = ""


def bench_episode(
    env: str, *, limit: int = 4, repeat: int = 5, workspace: str = "auto"
) -> list[Figure]:
    """Reset, graded gold episodes a minute and core, cost of grading, first verdict."""
    if repeat < 1:
        raise InputError(f"repeat must be at least 1, got {repeat}")
    entry = env_entry(env)
    taskset = entry.taskset()
    task = taskset.task(taskset.ids("test")[0])
    prepared = taskset.prepare(task)

    async def resets() -> float:
        times = []
        for _ in range(repeat):
            begun = time.perf_counter()
            episode = await open_episode(entry.id, taskset, task, workspace=workspace)
            times.append(time.perf_counter() - begun)
            await episode.close()
        return statistics.median(times)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        figures = [_reset(run_blocking(resets()), prepared.workspace.root, out / "copy", repeat)]
        cores = os.cpu_count() or 1
        begun = time.perf_counter()
        run = evaluate(
            env,
            agent="gold",
            limit=limit,
            attempts=repeat,
            workspace=workspace,
            out=out / "gold",
            progress=False,
        )
        minutes = (time.perf_counter() - begun) / 60
        rate = run.summary.graded / minutes / cores
        figures.append(Figure("graded gold episodes a minute and core", rate, "1/min"))
        figures += grading_cost(run)
        figures.append(_first_verdict(env, workspace, out, repeat))
    return figures


def grading_cost(run: Run) -> list[Figure]:
    """Median seconds of grading beside those of the tests alone, where the verifier says them."""
    pairs = [
        (trajectory.seconds["grade"], float(spent["tests"]))
        for trajectory in run
        if "tests" in (spent := trajectory.verdict.evidence.get("seconds", {}))
        and "grade" in trajectory.seconds
    ]
    if not pairs:
        return []
    beyond = statistics.median(grade - tests for grade, tests in pairs)
    tests = statistics.median(tests for _, tests in pairs)
    target = f"<= {(0.2 * tests + 0.1) * 1e3:.0f}"
    base = f"the tests: {tests * 1e3:.0f} ms"
    return [Figure("grading beyond the tests", beyond * 1e3, "ms", target, base)]


def _reset(seconds: float, root: Path | None, copy: Path, repeat: int) -> Figure:
    if root is None:
        return Figure("reset of a cached task", seconds * 1e3, "ms", "<= 100")
    times = []
    for number in range(repeat):
        begun = time.perf_counter()
        shutil.copytree(root, copy / str(number), symlinks=True)
        times.append(time.perf_counter() - begun)
    base = f"copying its files: {statistics.median(times) * 1e3:.1f} ms"
    return Figure("reset of a cached task", seconds * 1e3, "ms", "<= 100", base)


def _first_verdict(env: str, workspace: str, out: Path, repeat: int) -> Figure:
    program = (
        "import sys\n"
        "from m2gym.rollout.evaluation import evaluate\n"
        "import m2gym\n"
        "evaluate(sys.argv[1], agent='noop', limit=1, workspace=sys.argv[2], out=sys.argv[3],"
        " progress=False)\n"
    )
    times, bare = [], []
    for number in range(repeat):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", program, env, workspace, str(out / f"first-{number}")],
            check=True,
        )
        times.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import gymnasium"], check=True)
        bare.append(time.perf_counter() - begun)
    base = f"python -c 'import gymnasium': {statistics.median(bare):.2f} s"
    return Figure("new process to first verdict", statistics.median(times), "s", None, base)
