"""Rate limits of one model, shared by all its sessions."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from m2gym.core.waiting import waiting

MINUTE = 60.0


@dataclass
class Pace:
    """At most so many calls, and so many tokens, in any minute, and so many calls at once.

    ``None`` means no bound. Tokens are counted when a call ends, so a burst may overshoot by the
    calls under way. A provider that asks to wait holds everybody back (`pause`).
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    at_once: int | None = None
    _calls: deque[float] = field(default_factory=deque, repr=False)
    _tokens: deque[tuple[float, int]] = field(default_factory=deque, repr=False)
    _until: float = field(default=0.0, repr=False)
    _held: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = field(
        default=None, repr=False
    )

    def pause(self, seconds: float) -> None:
        """Start no call for this long."""
        self._until = max(self._until, time.monotonic() + seconds)

    def used(self, tokens: int) -> None:
        """Count the tokens of a call that ended."""
        if self.tokens_per_minute is not None:
            self._tokens.append((time.monotonic(), tokens))

    def wait(self, now: float) -> float:
        """Seconds until a call may start; 0 when it may now."""
        while self._calls and self._calls[0] <= now - MINUTE:
            self._calls.popleft()
        while self._tokens and self._tokens[0][0] <= now - MINUTE:
            self._tokens.popleft()
        wait = self._until - now
        if self.requests_per_minute is not None and len(self._calls) >= self.requests_per_minute:
            wait = max(wait, self._calls[0] + MINUTE - now)
        if self.tokens_per_minute is not None and self._tokens:
            spent = sum(tokens for _, tokens in self._tokens)
            if spent >= self.tokens_per_minute:
                wait = max(wait, self._tokens[0][0] + MINUTE - now)
        return max(0.0, wait)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a call's place; waits, in the order of coming, until it may start."""
        places = self._places()
        with waiting():
            await places.__aenter__()
        try:
            with waiting():
                while seconds := self.wait(time.monotonic()):  # noqa: ASYNC110  # time is awaited
                    await asyncio.sleep(seconds)
            if self.requests_per_minute is not None:
                self._calls.append(time.monotonic())
            yield
        finally:
            await places.__aexit__(None, None, None)

    def _places(self) -> AbstractAsyncContextManager[object]:
        if self.at_once is None:
            return nullcontext()
        loop = asyncio.get_running_loop()
        if self._held is None or self._held[0] is not loop:
            self._held = (loop, asyncio.Semaphore(self.at_once))
        return self._held[1]
