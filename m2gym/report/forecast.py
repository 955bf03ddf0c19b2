"""What an evaluation will take, judged by episodes seen: time, tokens, cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Trajectory, Usage
from m2gym.report.student import t_quantile

FEW = 5
"""Below so many tasks seen, a forecast says that it is a guess; the project's choice."""


@dataclass(frozen=True)
class Quantity:
    """A sum over the episodes to come, with a 95 % prediction interval where there is one."""

    expected: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Forecast:
    """``seconds`` is wall time with so many episodes at once; ``cost_usd`` and ``tokens`` are sums
    (tokens: prompt and answer)."""

    episodes: int
    concurrency: int
    seen: int
    tasks_seen: int
    seconds: Quantity
    cost_usd: Quantity
    tokens: Quantity

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.episodes} episodes, {self.concurrency} at once, judged by {self.seen} episodes "
            f"of {self.tasks_seen} tasks:",
            f"  time    {_span(self.seconds, _duration)}",
            f"  cost    {_span(self.cost_usd, lambda usd: f'${usd:.2f}')}",
            f"  tokens  {_span(self.tokens, lambda n: f'{n:,.0f}')}",
        ]
        if self.tasks_seen < FEW:
            lines.append(f"  a guess: fewer than {FEW} tasks were seen; tasks differ much")
        return "\n".join(lines)


def forecast(seen: Iterable[Trajectory], episodes: int, concurrency: int) -> Forecast:
    """Extrapolate episodes ``seen`` to ``episodes`` others of the same kind.

    A sum of n episodes from k tasks' means x: n·(x̄ ± t·s·√(1/n + 1/k)), with one value a task so
    that attempts at one task count once. Wall time is the sum over ``concurrency``, but never less
    than the longest episode seen.

    Raises:
        InputError: nothing was seen.
    """
    by_task: dict[str, list[tuple[float, float, float]]] = {}
    longest = 0.0
    for one in seen:
        spent = [one.usage, *(Usage.model_validate(r.get("usage", {})) for r in one.retries)]
        seconds = sum(one.seconds.values()) + sum(
            sum(r.get("seconds", {}).values()) for r in one.retries
        )
        longest = max(longest, sum(one.seconds.values()))
        by_task.setdefault(one.task, []).append(
            (
                seconds,
                sum(u.cost_usd for u in spent),
                float(sum(u.prompt_tokens + u.completion_tokens for u in spent)),
            )
        )
    if not by_task:
        raise InputError("the earlier run has no episode to judge by")
    means = np.array([np.mean(rows, axis=0) for rows in by_task.values()])
    time, cost, tokens = (_sum(means[:, i], episodes) for i in range(3))
    at_once = max(1, min(concurrency, episodes))
    wall = Quantity(
        max(time.expected / at_once, longest),
        None if time.low is None else max(time.low / at_once, longest),
        None if time.high is None else max(time.high / at_once, longest),
    )
    seen_now = sum(len(rows) for rows in by_task.values())
    return Forecast(episodes, at_once, seen_now, len(by_task), wall, cost, tokens)


def _sum(values: np.ndarray[tuple[int], np.dtype[np.float64]], n: int) -> Quantity:
    k, mean = len(values), float(values.mean())
    if k < 2:
        return Quantity(n * mean, None, None)
    half = t_quantile(0.975, k - 1) * float(values.std(ddof=1)) * math.sqrt(1 / n + 1 / k)
    return Quantity(n * mean, n * max(0.0, mean - half), n * (mean + half))


def _span(q: Quantity, say: Callable[[float], str]) -> str:
    if q.low is None or q.high is None:
        return f"about {say(q.expected)}"
    return f"about {say(q.expected)}  (95 %: {say(q.low)} to {say(q.high)})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
