"""Potential-based reward shaping: help on the way that leaves the best policy where it was.

F(s, s') = γ Φ(s') − Φ(s), with Φ = 0 at the end of an episode (Ng, Harada, Russell, "Policy
invariance under reward transformations", ICML 1999, theorem 1). Undiscounted, the return of every
episode from s₀ is moved by the same −Φ(s₀), whatever is done.

A potential sees what the agent may see (observations, its own test runs); it is never computed
from hidden tests.

>>> shaping = PotentialShaping(lambda state: float(state), gamma=1.0)
>>> shaping.reset(2)
>>> [shaping.step(5), shaping.step(4), shaping.step(9, terminal=True)]
[3.0, -1.0, -4.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

from m2gym.core.errors import EpisodeOverError, InputError, VerifierError

S = TypeVar("S")


class PotentialShaping(Generic[S]):
    """The shaping term of each step of an episode.

    Args:
        potential: Φ, a finite number for every state that is not terminal.
        gamma: the discount of the learner, in [0, 1]. Another one here breaks the theorem.
    """

    def __init__(self, potential: Callable[[S], float], gamma: float = 1.0) -> None:
        if not 0.0 <= gamma <= 1.0:
            raise InputError(f"gamma lies in [0, 1], got {gamma}")
        self.potential, self.gamma = potential, gamma
        self._last: float | None = None

    def reset(self, state: S) -> None:
        """Begin an episode in ``state``."""
        self._last = self._phi(state)

    def step(self, state: S, *, terminal: bool = False) -> float:
        """F of the step that led to ``state``.

        ``terminal`` is true where the episode ends, by the agent or by a limit: the learner takes
        no value from beyond, so Φ is 0 there. Raises `EpisodeOverError` before `reset` or after
        the end.
        """
        if self._last is None:
            raise EpisodeOverError("no episode is under way; call reset(state) first")
        phi = 0.0 if terminal else self._phi(state)
        shaped = self.gamma * phi - self._last
        self._last = None if terminal else phi
        return shaped

    def _phi(self, state: S) -> float:
        phi = float(self.potential(state))
        if not math.isfinite(phi):
            raise VerifierError(f"a potential must be finite, got {phi} for {state!r:.80}")
        return phi
