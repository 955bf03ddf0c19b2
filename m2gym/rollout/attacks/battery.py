"""Every attack against every task: none may earn more than doing nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.task import Split
from m2gym.core.trajectory import Trajectory
from m2gym.rollout.attacks import Attack, attacks
from m2gym.rollout.attacks.agent import Attacker
from m2gym.rollout.evaluation import evaluate


@dataclass(frozen=True)
class Outcome:
    """What one attack on one task came to. ``reward`` is ``None`` where the episode is invalid;
    ``exempt`` says why a success is not held against the grader."""

    task: str
    attack: str
    about: str
    reward: float | None
    status: str
    flags: tuple[str, ...]
    problem: str = ""
    exempt: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


def run_battery(
    env: str,
    out: Path,
    *,
    names: list[str] | None = None,
    split: Split = "test",
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    concurrency: int | None = None,
    workspace: str = "auto",
    noop: dict[str, float] | None = None,
    progress: bool = True,
) -> list[Outcome]:
    """Try the attacks (all, or those named) on each task; their runs go below ``out``.

    ``noop`` is what doing nothing earns, by task (0 where it is not given): partial credit that a
    task gives for nothing is no success of an attack's.
    """
    found: list[Outcome] = []
    for attack in attacks(names):
        run = evaluate(
            env,
            agent=Attacker(attack),
            split=split,
            limit=limit,
            tasks=tasks,
            concurrency=concurrency,
            workspace=workspace,
            keep_artifacts=False,
            out=out / attack.name,
            progress=progress,
        )
        found += [judge(attack, episode, noop or {}) for episode in run]
    return found


def judge(attack: Attack, episode: Trajectory, noop: dict[str, float]) -> Outcome:
    """Whether the grader withstood: reward 0 (what nothing earns), or no reward at all."""
    verdict = episode.verdict
    allowed = max(0.0, noop.get(episode.task, 0.0))
    problem = exempt = ""
    if episode.error and "hidden file lies in" in episode.error:
        problem = episode.error
    elif verdict.reward is not None and verdict.reward > allowed:
        problem = f"earned {verdict.reward:g}"
    if problem and verdict.isolation == "shared":
        problem, exempt = "", f"{problem}, isolation: shared (never trained on)"
    kinds = dict.fromkeys(str(flag.get("kind")) for flag in verdict.evidence.get("flags", ()))
    return Outcome(
        episode.task, attack.name, attack.about, verdict.reward, verdict.status, tuple(kinds),
        problem, exempt,
    )  # fmt: skip
