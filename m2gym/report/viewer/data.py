"""What the page is given: a row a trajectory for the table, and the whole of one when opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from m2gym.core.trajectory import Trajectory
from m2gym.report.stats import compare
from m2gym.report.summary import Summary
from m2gym.report.viewer.renderers import render

ARTIFACT_FILES = 60
"""Files of one episode that are shown; the project's choice."""


@dataclass(frozen=True)
class Left:
    """What an episode left: changed files, deleted paths, a unified diff."""

    files: dict[str, bytes]
    deleted: list[str]
    diff: str


@dataclass(frozen=True)
class ViewedRun:
    """One run for the page.

    ``left`` gives what an episode left, where that was kept; ``decode`` the text of a token id,
    where a tokenizer is at hand.
    """

    name: str
    info: dict[str, Any]
    summary: Summary
    trajectories: Iterable[Trajectory]
    left: Callable[[str], Left | None] = lambda _: None
    decode: Callable[[int], str] | None = field(default=None, repr=False)


def head(run: ViewedRun) -> dict[str, Any]:
    """A run's name, configuration and numbers."""
    return {"name": run.name, "info": run.info, "summary": run.summary.as_dict()}


def comparisons(rows: Iterable[dict[str, Any]], runs: int) -> dict[str, dict[str, Any]]:
    """Interval and test of every ordered pair of runs that have graded tasks in common."""
    rewards: list[dict[str, list[float]]] = [{} for _ in range(runs)]
    for one in rows:
        if one["reward"] is not None:
            rewards[one["run"]].setdefault(one["task"], []).append(one["reward"])
    return {
        f"{a}/{b}": {"interval": found.interval, "p_value": found.p_value}
        for a in range(runs)
        for b in range(runs)
        if a != b and rewards[a].keys() & rewards[b].keys()
        for found in [compare(rewards[a], rewards[b])]
    }


def row(number: int, one: Trajectory) -> dict[str, Any]:
    """What the table and the charts need of a trajectory; ``number`` is its run's."""
    parents = [c.parent for c in one.completions]
    named = [p for p in parents if p is not None]
    return {
        "run": number,
        "id": one.id,
        "task": one.task,
        "attempt": one.attempt,
        "status": one.verdict.status,
        "reward": one.verdict.reward,
        "stop": one.verdict.stop,
        "steps": len(one.steps),
        "calls": len(one.completions),
        "forks": len(named) - len(set(named)) + max(0, parents.count(None) - 1),
        "tokens": one.usage.prompt_tokens + one.usage.completion_tokens,
        "cost": one.usage.cost_usd,
        "seconds": one.seconds,
        "waited": one.waited,
        "retries": len(one.retries),
        "started": one.started,
        "parent": one.parent,
        "error": (one.error or "")[:300],
    }


def detail(run: ViewedRun, one: Trajectory) -> dict[str, Any]:
    """The whole of a trajectory, with its artifacts as blocks and its tokens' texts."""
    left = run.left(one.id)
    found: dict[str, Any] = {"trajectory": one.model_dump(mode="json", exclude_defaults=True)}
    if left is not None:
        found["diff"], found["deleted"] = left.diff, left.deleted[:1000]
        shown = [path for path in sorted(left.files) if not path.startswith(".git/")]
        found["artifacts"] = [
            {"path": path, "bytes": len(left.files[path]), **render(path, left.files[path])}
            for path in shown[:ARTIFACT_FILES]
        ]
        found["more_artifacts"] = max(0, len(shown) - ARTIFACT_FILES)
    if run.decode is not None:
        ids = {i for c in one.completions for i in (*c.prompt_ids, *c.response_ids)}
        found["tokens"] = {str(i): run.decode(i) for i in sorted(ids)}
    return found
