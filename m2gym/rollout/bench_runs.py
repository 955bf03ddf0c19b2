"""``m2gym bench runs``: what the driver costs an episode, beside Inspect's and verifiers'.

The task is the same everywhere: one call of a model that answers at once, one trivial score. With
``M2GYM_PEERS_PYTHON`` naming a Python that has ``inspect_ai`` (and ``verifiers``), theirs are
measured in the same call; without, only ours are. On a busy machine processor time, told beside
wall time, is the steadier of the two.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m2gym.core.protocols import Episode, ModelRequest
from m2gym.core.task import Limits, RewardSpec, Task
from m2gym.core.trajectory import Completion, Trajectory
from m2gym.core.verdict import Verdict
from m2gym.rollout.bench import Figure
from m2gym.rollout.bench_peers import Clock

EPISODES = {1: 60, 32: 320, 256: 768}
"""Concurrency → episodes measured; the project's choice."""
RECORDS = 10_000
MARKS = (1_000, 5_000, 10_000)
PEERS = Path(__file__).with_name("bench_peers.py")


class OneCall:
    """Asks the model once and leaves what it says."""

    name = "one-call"
    uses_model = True

    async def run(self, episode: Episode) -> None:
        asked = [{"role": "user", "content": episode.task.instruction}]
        assert episode.session is not None
        said = await episode.session.complete(ModelRequest(asked, streamed=False))
        await episode.workspace.write("answer.txt", str(said.message["content"]).encode())
        await episode.submit()


def run() -> list[dict[str, Any]]:
    """All figures as rows: each size of ours and of the peers' one after the other."""
    figures = []
    for workspace, what, key in (("files", "no box", "none"), ("auto", "with a box", "sandbox")):
        for concurrency, episodes in EPISODES.items():
            spent = measure(concurrency, episodes, workspace)
            beside = {
                name: found
                for name in ("inspect", "verifiers")
                if (found := _peer(name, key, concurrency, episodes)) is not None
            }
            best = min((one["ms"] for one in beside.values()), default=None)
            base = ", ".join(
                f"{name} {one['ms']:.1f} ms ({one['cpu']:.1f} CPU)" for name, one in beside.items()
            )
            named = f"an episode, {what}, {concurrency} at once ({spent['cpu']:.1f} ms CPU)"
            target = None if best is None else f"<= {best / 2:.1f}"
            figures.append(Figure(named, spent["ms"], "ms", target, base))
            print(f"{named}: {spent['ms']:.1f} ms; {base}", file=sys.stderr)
    figures += [*memory_figure(), *folder_figures()]
    return [asdict(figure) for figure in figures]


def measure(concurrency: int, episodes: int, workspace: str) -> dict[str, float]:
    """Milliseconds an episode (wall, and processor time with that of the boxes' processes) and
    memory in MiB, in a process of its own."""
    return _apart(str(concurrency), str(episodes), workspace)


def memory_figure() -> list[Figure]:
    """Memory of the driver's process while one folder takes `RECORDS` episodes."""
    found = _apart("memory")
    beside = ", ".join(f"after {int(n):,}: {mib:.1f} MiB" for n, mib in found.items())
    last = found[str(MARKS[-1])]
    return [Figure(f"memory after {MARKS[-1]:,} episodes in one folder", last, "MiB", None, beside)]


def _apart(*words: str) -> dict[str, float]:
    order = [sys.executable, "-m", "m2gym.rollout.bench_runs", *words]
    done = subprocess.run(order, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def here(concurrency: int, episodes: int, workspace: str) -> dict[str, float]:
    """Milliseconds an episode and peak memory, in this process."""

    def go(limit: int, out: Path) -> dict[str, float]:
        clock = Clock()
        _evaluate(out, limit=limit, concurrency=concurrency, workspace=workspace)
        return clock.each(limit)

    _register(episodes)
    with tempfile.TemporaryDirectory() as folder:
        go(min(8, episodes), Path(folder) / "warm")
        spent = go(episodes, Path(folder) / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**spent, "mib": peak}


def memory() -> dict[str, float]:
    """Resident MiB of this process when so many episodes have begun."""
    begun, found = 0, {}

    def count() -> None:
        nonlocal begun
        begun += 1
        if begun in MARKS:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found[str(begun)] = pages * resource.getpagesize() / 2**20

    _register(100)
    with tempfile.TemporaryDirectory() as folder:
        _evaluate(
            Path(folder) / "run", attempts=RECORDS // 100, concurrency=32, workspace="files",
            called=count,
        )  # fmt: skip
    return found


def _register(tasks: int) -> None:
    import m2gym

    m2gym.reward("bench-said")(lambda artifacts: float(artifacts.text("answer.txt") == "yes"))
    made = [
        Task(
            id=f"t{n}",
            instruction="Say yes.",
            files={"README": "say yes"},
            rewards=(RewardSpec(name="bench-said"),),
            limits=Limits(memory_mb=None, disk_mb=None),
        )
        for n in range(tasks)
    ]
    m2gym.register("bench-runs", tasks=made)


def _evaluate(out: Path, *, called: Callable[[], None] = lambda: None, **options: Any) -> None:
    import m2gym
    from m2gym.models.scripted import ScriptedModel, Turn

    def say(_: ModelRequest) -> Turn:
        called()
        return Turn(text="yes")

    result = m2gym.evaluate(
        "bench-runs", agent=OneCall(), model=ScriptedModel(say), out=out, progress=False, **options
    )
    assert result.score == 1, next((t.error for t in result), "no episode")


def folder_figures() -> list[Figure]:
    """Scanning a big folder for a resume."""
    from m2gym.rollout.records import encode
    from m2gym.rollout.run_folder import RECORDS as FILE
    from m2gym.rollout.run_folder import RunWriter
    from m2gym.rollout.run_info import RunConfig, new_info

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        tasks = tuple(f"t{n}" for n in range(RECORDS))
        info = new_info(RunConfig(env="e", agent="a", tasks=tasks), dict.fromkeys(tasks, "h"))
        RunWriter(path, info).close()
        talk = tuple(
            Completion(messages=({"role": "tool", "content": "x" * 200},),
                       message={"role": "assistant", "content": "y" * 100},
                       parent=n - 1 if n else None)
            for n in range(5)
        )  # fmt: skip
        blank = Trajectory(
            id="", env="e", task="", task_hash="h", agent="a", verdict=Verdict(reward=1.0)
        )
        with (path / FILE).open("wb") as file:
            for task in tasks:
                own = {"id": task, "task": task, "completions": talk}
                file.write(encode(blank.model_copy(update=own)))
        size = (path / FILE).stat().st_size / 2**20
        begun, cpu = time.perf_counter(), time.process_time()
        with RunWriter(path, info, resume=True) as writer:
            assert len(writer.done) == RECORDS
        spent, cpu = time.perf_counter() - begun, time.process_time() - cpu
    named = f"resume scan of {RECORDS:,} records ({size:.0f} MiB)"
    return [Figure(named, spent, "s", "<= 2", f"processor time {cpu:.2f} s")]


def _peer(name: str, key: str, concurrency: int, episodes: int) -> dict[str, float] | None:
    """A peer's milliseconds an episode, wall and processor; ``None`` where it has none."""
    python = os.environ.get("M2GYM_PEERS_PYTHON")
    if python is None:
        return None
    order = [python, str(PEERS), name, key, str(concurrency), str(episodes)]
    done = subprocess.run(order, capture_output=True, text=True, check=False, timeout=400)
    if done.returncode == 0:
        found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    print(f"{name} ({key}): {done.stderr.strip()[-300:]}", file=sys.stderr)
    return None


if __name__ == "__main__":
    if sys.argv[1] == "memory":
        print(json.dumps(memory()))
    else:
        print(json.dumps(here(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
