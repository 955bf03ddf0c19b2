"""Calls made again, as often and as late as their failure's cause deserves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from m2gym.backends.pace import Pace
from m2gym.core.errors import ModelError, RateLimitError
from m2gym.core.protocols import Delta
from m2gym.core.waiting import waiting

TRIES: dict[str, int] = {"rate_limit": 10, "server": 6, "network": 6, "timeout": 3, "broken": 3}
"""Calls in all by cause; any other cause (``auth``, ``refused``) gets one. The project's choice."""


@dataclass(frozen=True)
class Retry:
    """Waits ``base · 2ⁿ`` seconds, at most ``longest``, at random down to half; or as asked."""

    tries: dict[str, int] = field(default_factory=lambda: dict(TRIES))
    base: float = 1.0
    longest: float = 60.0
    patience: float = 300.0
    """Seconds; a provider that asks to wait longer is given up."""

    def wait(self, error: ModelError, failures: int) -> float | None:
        """Seconds before the next try after so many failures of this cause; ``None``: give up."""
        if failures >= self.tries.get(error.cause, 1):
            return None
        if error.retry_after is not None:
            return float(error.retry_after) if error.retry_after <= self.patience else None
        span = min(self.longest, self.base * 2 ** (failures - 1))
        return float(span * random.uniform(0.5, 1.0))

    async def again(self, error: ModelError, failures: dict[str, int], pace: Pace) -> None:
        """Count a failure in ``failures`` and wait for the next try; raise it where there is none.

        A provider that is asked too often is left alone by everybody meanwhile.
        """
        failures[error.cause] = failures.get(error.cause, 0) + 1
        seconds = self.wait(error, failures[error.cause])
        if seconds is None:
            raise error
        if isinstance(error, RateLimitError):
            pace.pause(seconds)
        with waiting():
            await asyncio.sleep(seconds)


async def retried(
    call: Callable[[], AsyncGenerator[Delta, None]], retry: Retry, pace: Pace
) -> AsyncGenerator[Delta, None]:
    """The deltas of ``call``, made again while nothing of its answer was given yet.

    Raises:
        ModelError: the last failure; or one half-way, after which a second call could say
            something else.
    """
    failures: dict[str, int] = {}
    while True:
        given = False
        try:
            async with pace.turn(), aclosing(call()) as deltas:
                async for delta in deltas:
                    given = True
                    yield delta
            return
        except ModelError as error:
            if given and error.cause == "network":
                raise ModelError(f"the answer broke off: {error}", cause="broken") from error
            if given:
                raise
            failed = error
        await retry.again(failed, failures, pace)
