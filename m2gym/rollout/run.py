"""A run as an object: its score and interval, trajectories, comparison, dataframe."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Verdict
from m2gym.report import stats
from m2gym.report.summary import Summary, rewards_by_task, summarise
from m2gym.report.table import summary_html, summary_table, to_text
from m2gym.rollout.run_folder import read_info, read_records
from m2gym.rollout.run_info import RunConfig, RunInfo


class Run:
    """A finished or unfinished run folder, read when asked and kept as it was then.

    Of several records of one task and attempt (an infrastructure failure tried again) the last
    counts.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info: RunInfo = read_info(self.path)

    @property
    def config(self) -> RunConfig:
        return self.info.config

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """All of them, in the order they were written; `__iter__` holds one at a time."""
        return list(self)

    def __iter__(self) -> Iterator[Trajectory]:
        return read_records(self.path)

    @cached_property
    def summary(self) -> Summary:
        config = self.config
        return summarise(self, env=config.env, agent=config.agent, model=config.model)

    @property
    def score(self) -> float | None:
        """Mean over tasks of the mean reward; ``None`` when nothing was graded."""
        found = self.summary.estimate
        return found.mean if found else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the score, clustered by task (`report.stats.estimate`)."""
        found = self.summary.estimate
        return found.interval if found else None

    @property
    def complete(self) -> bool:
        """Whether every task has its attempts, none of them lost to infrastructure."""
        wanted = len(self.config.tasks) * self.config.attempts
        lost = self.summary.statuses.get("infra_error", 0)
        return self.summary.episodes - lost == wanted

    def verdicts(self) -> dict[tuple[str, str], list[Verdict]]:
        """(task, episode id) → its own verdict and those of `m2gym regrade`, for `flake_rate`."""
        from m2gym.rollout.regrade import read_gradings

        found = {(t.task, t.id): [t.verdict] for t in self}
        for grading in read_gradings(self.path):
            found.setdefault((grading.task, grading.id), []).append(grading.verdict)
        return found

    def rewards(self) -> dict[str, list[float]]:
        """Task id → rewards of its graded episodes."""
        return rewards_by_task(self)

    def pass_at(self, k: int) -> float:
        """Unbiased pass@k, averaged over tasks."""
        return stats.pass_at_k(self.rewards(), k)

    def compare(self, other: Run) -> stats.Comparison:
        """``other`` minus this one, paired by task and, where both have the same seeds, by attempt:
        then an attempt that one of them could not grade is left out of both."""
        mine, theirs = (
            {(t.task, t.attempt, t.seed): t.verdict.reward for t in run if t.verdict.graded}
            for run in (self, other)
        )
        if self.config.seed == other.config.seed:
            shared = mine.keys() & theirs.keys()
            tasks = {key[0] for key in shared}
            mine, theirs = (
                {k: v for k, v in one.items() if k in shared or k[0] not in tasks}
                for one in (mine, theirs)
            )
        return stats.compare(_by_task(mine), _by_task(theirs))

    def to_df(self) -> Any:
        """A `pandas.DataFrame` with one row an episode."""
        try:
            pandas: Any = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise InputError("to_df needs pandas: pip install pandas") from error
        return pandas.DataFrame(
            [
                {
                    "task": t.task,
                    "attempt": t.attempt,
                    "reward": t.verdict.reward,
                    "status": t.verdict.status,
                    "stop": t.verdict.stop,
                    "steps": len(t.steps),
                    "completions": len(t.completions),
                    **t.usage.model_dump(),
                    "drift": sum(c.drift for c in t.completions),
                    **{f"{phase}_seconds": value for phase, value in t.seconds.items()},
                    **{f"score.{name}": score.value for name, score in t.verdict.scores.items()},
                    "error": t.error,
                    "id": t.id,
                }
                for t in self
            ]
        )

    def __str__(self) -> str:
        title = f"{self.config.env} · {self.path}"
        return to_text(summary_table([self.summary], title))

    def __repr__(self) -> str:
        score = "–" if self.score is None else f"{self.score:.3f}"
        episodes = self.summary.episodes
        return f"Run({str(self.path)!r}, score={score}, episodes={episodes})"

    def _repr_html_(self) -> str:
        return summary_html([self.summary], str(self.path))


def _by_task(found: dict[tuple[str, int, int | None], float | None]) -> dict[str, list[float]]:
    grouped: dict[str, list[float]] = {}
    for (task, _, _), reward in found.items():
        if reward is not None:
            grouped.setdefault(task, []).append(reward)
    return grouped


def load_run(path: str | Path) -> Run:
    """A run folder as an object; `InputError` when it is none."""
    return Run(path)
