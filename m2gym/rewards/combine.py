"""The weighted combination of several scores.

>>> combine([("tests-pass", 1.0, Score(value=1)), ("short-diff", 0.1, Score(value=0.5))])
1.05
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from m2gym.core.errors import VerifierError
from m2gym.core.task import RewardSpec
from m2gym.core.verdict import Score


def combine(scores: Iterable[tuple[str, float, Score]]) -> float:
    """Σ weight · score over ``(name, weight, score)``; 0 as soon as one of them is forged.

    Weights are not normalised. Raises `VerifierError` when the sum overflows.
    """
    scores = list(scores)
    if any(score.forged for _, _, score in scores):
        return 0.0
    total = math.fsum(weight * score.value for _, weight, score in scores)
    if not math.isfinite(total):
        raise VerifierError(f"the weighted sum of {[name for name, _, _ in scores]} is {total}")
    return total


def score_names(specs: Sequence[RewardSpec]) -> list[str]:
    """Names under which scores are kept: the reward's, numbered where it is used again.

    >>> score_names([RewardSpec(name="a"), RewardSpec(name="b"), RewardSpec(name="a")])
    ['a', 'b', 'a#2']
    """
    seen: dict[str, int] = {}
    names = []
    for spec in specs:
        seen[spec.name] = count = seen.get(spec.name, 0) + 1
        names.append(spec.name if count == 1 else f"{spec.name}#{count}")
    return names
