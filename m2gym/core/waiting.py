"""Time an episode spent waiting for a turn rather than working: queues, rate limits, back-off.

The driver gives each episode a `Waiting`; whoever makes a call wait says so with `waiting`, and it
is counted wherever an episode's clock is current. Calls that wait at the same time count once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Waiting:
    """Seconds by what was waited for (``box``, ``model``, ``grader``)."""

    def __init__(self) -> None:
        self._total: dict[str, float] = {}
        self._since: dict[str, tuple[int, float]] = {}

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        """Count the block as waiting for ``what``."""
        depth, since = self._since.get(what, (0, 0.0))
        self._since[what] = (depth + 1, since if depth else time.monotonic())
        try:
            yield
        finally:
            depth, since = self._since[what]
            self._since[what] = (depth - 1, since)
            if depth == 1:
                self._total[what] = self._total.get(what, 0.0) + time.monotonic() - since

    def seconds(self, what: str) -> float:
        """What was waited so far, the wait under way included."""
        depth, since = self._since.get(what, (0, 0.0))
        return self._total.get(what, 0.0) + (time.monotonic() - since if depth else 0.0)

    def totals(self) -> dict[str, float]:
        """Every kind that was waited for at least a millisecond."""
        return {what: round(s, 6) for what, s in sorted(self._total.items()) if s >= 0.001}


_CURRENT: ContextVar[Waiting | None] = ContextVar("m2gym_waiting", default=None)


def count_in(clock: Waiting | None) -> None:
    """Waits of this task are counted in ``clock`` from now on."""
    _CURRENT.set(clock)


@contextmanager
def waiting(what: str = "model") -> Iterator[None]:
    """The block waits for a turn; counted where an episode's clock is current."""
    clock = _CURRENT.get()
    if clock is None:
        yield
        return
    with clock.time(what):
        yield
