"""How steady a grader is: the same artifacts judged more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from m2gym.core.verdict import Verdict
from m2gym.report.stats import Estimate, estimate


@dataclass(frozen=True)
class Flakes:
    """``rate`` is the chance that two gradings of one episode's artifacts disagree in reward or
    status, a mean over tasks with its interval; ``None`` where no episode was graded twice.

    A rate of 0 from few gradings proves little: read the interval's upper end.
    """

    rate: Estimate | None
    episodes: int
    gradings: int
    flaky: list[str]
    """Tasks with an episode whose gradings disagree."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        if self.rate is None:
            return "flake rate: unknown, no episode has been graded twice"
        span = self.rate.interval
        shown = f" [{span[0]:.3f}, {span[1]:.3f}]" if span else ""
        which = f"; flaky: {', '.join(self.flaky[:8])}" if self.flaky else ""
        return (
            f"flake rate: {self.rate.mean:.3f}{shown} of two gradings disagree, over "
            f"{self.episodes} episodes with {self.gradings} gradings{which}"
        )


def flake_rate(verdicts: Mapping[tuple[str, str], Sequence[Verdict]]) -> Flakes:
    """From ``{(task, episode): [verdict, …]}``; infrastructure's failures are no gradings.

    An episode with n gradings of which nᵢ say the same contributes the unbiased
    1 − Σ nᵢ(nᵢ − 1) / (n(n − 1)) (Simpson 1949).

    >>> v = [Verdict(reward=1.0), Verdict(reward=1.0), Verdict(reward=0.0)]
    >>> round(flake_rate({("t", "e"): v}).rate.mean, 3)
    0.667
    """
    chances: dict[str, list[float]] = {}
    gradings = 0
    for (task, _), given in verdicts.items():
        said = Counter((v.reward, v.status) for v in given if v.status != "infra_error")
        n = said.total()
        if n < 2:
            continue
        gradings += n
        agree = sum(count * (count - 1) for count in said.values()) / (n * (n - 1))
        chances.setdefault(task, []).append(1 - agree)
    return Flakes(
        rate=estimate(chances),
        episodes=sum(len(values) for values in chances.values()),
        gradings=gradings,
        flaky=sorted(task for task, values in chances.items() if any(values)),
    )
