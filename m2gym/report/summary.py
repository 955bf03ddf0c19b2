"""A run in numbers: score, interval, how many episodes counted, and why the others did not."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from m2gym.core.trajectory import Trajectory
from m2gym.report.caution import of_score
from m2gym.report.stats import Estimate, estimate, estimate_pass, pass_at_k


@dataclass(frozen=True)
class Summary:
    """One row of a table.

    ``masked`` counts episodes without a reward (infrastructure, verifier, cancelled): they are in
    ``statuses`` and in no mean. ``seconds`` is the median wall time of a graded episode;
    ``cost_usd`` and ``tokens`` (prompt and answer) are sums over all episodes, the tries that
    infrastructure failed included. ``warnings`` say when not to believe the score.
    """

    env: str
    agent: str
    model: str | None
    episodes: int
    graded: int
    estimate: Estimate | None
    statuses: dict[str, int]
    seconds: float | None
    best_of: dict[int, float]
    passes: dict[str, Estimate] = field(default_factory=dict)
    """``pass@k`` and ``pass^k`` with their intervals."""
    cost_usd: float = 0.0
    tokens: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def masked(self) -> int:
        return self.episodes - self.graded

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values only."""
        found = self.estimate
        return {
            "env": self.env,
            "agent": self.agent,
            "model": self.model,
            "score": found.mean if found else None,
            "interval": list(found.interval) if found and found.interval else None,
            "estimate": asdict(found) if found else None,
            "episodes": self.episodes,
            "graded": self.graded,
            "masked": self.masked,
            "statuses": self.statuses,
            "seconds": self.seconds,
            "pass_at": {str(k): value for k, value in self.best_of.items()},
            "passes": {name: asdict(found) for name, found in self.passes.items()},
            "cost_usd": self.cost_usd,
            "tokens": self.tokens,
            "warnings": self.warnings,
        }


def rewards_by_task(trajectories: Iterable[Trajectory]) -> dict[str, list[float]]:
    """The rewards of graded episodes, grouped by task in order of appearance."""
    found: dict[str, list[float]] = {}
    for trajectory in trajectories:
        if trajectory.verdict.reward is not None:
            found.setdefault(trajectory.task, []).append(trajectory.verdict.reward)
    return found


def summarise(
    trajectories: Iterable[Trajectory], *, env: str = "", agent: str = "", model: str | None = None
) -> Summary:
    """The numbers of a run; reads each trajectory once."""
    statuses: Counter[str] = Counter()
    rewards: dict[str, list[float]] = {}
    seconds = []
    cost, tokens = 0.0, 0
    for trajectory in trajectories:
        statuses[trajectory.verdict.status] += 1
        spent = [trajectory.usage.model_dump(), *(r.get("usage", {}) for r in trajectory.retries)]
        cost += sum(one.get("cost_usd", 0.0) for one in spent)
        tokens += sum(
            one.get("prompt_tokens", 0) + one.get("completion_tokens", 0) for one in spent
        )
        env, agent = env or trajectory.env, agent or trajectory.agent
        if trajectory.verdict.reward is not None:
            rewards.setdefault(trajectory.task, []).append(trajectory.verdict.reward)
            seconds.append(sum(trajectory.seconds.values()))
    least = min((len(values) for values in rewards.values()), default=0)
    found, episodes = estimate(rewards), sum(statuses.values())
    graded = sum(len(values) for values in rewards.values())
    ks = [k for k in sorted({2, least}) if 1 < k <= least]
    return Summary(
        env=env,
        agent=agent,
        model=model,
        episodes=episodes,
        graded=graded,
        estimate=found,
        statuses=dict(statuses),
        seconds=statistics.median(seconds) if seconds else None,
        best_of={k: pass_at_k(rewards, k) for k in ks},
        passes={
            f"pass{sign}{k}": estimate_pass(rewards, k, every=sign == "^")
            for k in ks
            for sign in "@^"
        },
        cost_usd=cost,
        tokens=tokens,
        warnings=of_score(found, episodes, statuses, episodes - graded),
    )
