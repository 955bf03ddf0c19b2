"""Is an environment right? The reference scores 1, doing nothing less, and always the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2gym.core.task import Split
from m2gym.core.trajectory import Trajectory
from m2gym.rollout.evaluation import evaluate
from m2gym.rollout.run import Run

TOLERANCE = 1e-9
"""A weighted sum of scores that are all 1 may miss 1 by rounding."""


@dataclass(frozen=True)
class TaskCheck:
    """What was found for one task: rewards of each repetition, and what is wrong (or nothing)."""

    task: str
    gold: list[float | None]
    noop: list[float | None]
    problems: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems


def validate(
    env: str,
    out: Path,
    *,
    split: Split = "test",
    limit: int | None = None,
    tasks: list[str] | None = None,
    times: int = 3,
    concurrency: int | None = None,
    workspace: str = "auto",
    progress: bool = True,
) -> list[TaskCheck]:
    """Run ``gold`` and ``noop`` ``times`` times on each task; their runs go below ``out``."""
    runs: dict[str, Run] = {}
    for agent in ("gold", "noop"):
        runs[agent] = evaluate(
            env,
            agent=agent,
            split=split,
            limit=limit,
            tasks=tasks,
            attempts=times,
            concurrency=concurrency,
            workspace=workspace,
            out=out / agent,
            progress=progress,
        )
    found = {agent: _by_task(run) for agent, run in runs.items()}
    return [
        check(task, found["gold"].get(task, []), found["noop"].get(task, []))
        for task in runs["gold"].config.tasks
    ]


def check(task: str, gold: list[Trajectory], noop: list[Trajectory]) -> TaskCheck:
    """Judge the repetitions of one task."""
    problems = [
        f"{name} was not graded: {episode.error or episode.verdict.status}"
        for name, episodes in (("gold", gold), ("noop", noop))
        for episode in episodes
        if not episode.verdict.graded
    ]
    for episode in gold:
        if episode.verdict.status == "agent_error":
            problems.append(f"gold failed: {episode.error}")
    golden = [e.verdict.reward for e in gold if e.verdict.reward is not None]
    idle = [e.verdict.reward for e in noop if e.verdict.reward is not None]
    wrong = [reward for reward in golden if abs(reward - 1) > TOLERANCE]
    if wrong:
        problems.append(f"gold scores {min(wrong):g}, not 1")
    if any(reward >= 1 - TOLERANCE for reward in idle):
        problems.append(f"noop scores {max(idle):g}: the task is solved before it begins")
    for name, episodes in (("gold", gold), ("noop", noop)):
        verdicts = {_essence(episode) for episode in episodes if episode.verdict.graded}
        if len(verdicts) > 1:
            problems.append(f"{name} got {len(verdicts)} different verdicts")
    return TaskCheck(
        task,
        [e.verdict.reward for e in gold],
        [e.verdict.reward for e in noop],
        list(dict.fromkeys(problems)),
    )


def _essence(episode: Trajectory) -> tuple[object, ...]:
    verdict = episode.verdict
    scores = tuple(sorted((name, score.value) for name, score in verdict.scores.items()))
    return verdict.reward, verdict.status, scores


def _by_task(run: Run) -> dict[str, list[Trajectory]]:
    found: dict[str, list[Trajectory]] = {}
    for trajectory in run:
        found.setdefault(trajectory.task, []).append(trajectory)
    return found
