"""Limits on what happens at once, which may be changed while it happens.

    episodes ─► box creations a second ─► boxes ─► model calls │ graders

An episode holds a place at ``episodes`` and ``boxes`` for its whole life, one at ``model_calls``
for each call and one at ``graders`` while it is graded. Nobody who holds a later place waits for an
earlier one, so there is no deadlock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import Field

from m2gym.core.task import Frozen


class AtOnce(Frozen):
    """How much may happen at once; ``None`` means no bound, 0 pauses."""

    episodes: int | None = Field(None, ge=0, description="episodes under way")
    boxes: int | None = Field(None, ge=0, description="agents' boxes open")
    creations: float | None = Field(None, ge=0, description="boxes created a second")
    model_calls: int | None = Field(None, ge=0, description="calls of the model under way")
    graders: int | None = Field(None, ge=0, description="episodes being graded")


class Gate:
    """At most ``limit`` places; waiters come in, in their order, as places become free."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit, self.held = limit, 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for waiter in self._waiters)

    def set(self, limit: float | None) -> None:
        """Another limit from now on; places held beyond it are given up as they end."""
        self.limit = limit
        self._let_in()

    async def acquire(self) -> None:
        """Take a place; waits for it."""
        if not self._waiters and self._free():
            self.held += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()
            else:
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Give a place back."""
        self.held -= 1
        self._let_in()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for the block."""
        await self.acquire()
        try:
            yield
        finally:
            self.release()

    def _free(self) -> bool:
        return self.limit is None or self.held < self.limit

    def _let_in(self) -> None:
        while self._waiters and self._free():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.held += 1
                waiter.set_result(None)


class Rate:
    """At most so many starts a second, evenly spaced."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self._next = 0.0
        self._turn = asyncio.Lock()

    def set(self, limit: float | None) -> None:
        """Another rate from the next start on."""
        self.limit = limit

    async def wait(self) -> None:
        """Come back when one may start."""
        if self.limit is None:
            return
        async with self._turn:
            while (left := self._left()) > 0:  # noqa: ASYNC110  # time is awaited
                await asyncio.sleep(min(left, 0.25))
            if self.limit is not None:
                self._next = time.monotonic() + 1 / self.limit

    def _left(self) -> float:
        """Seconds until the next start; without end while a limit of 0 pauses."""
        if self.limit is None:
            return 0.0
        return self._next - time.monotonic() if self.limit else float("inf")


class Gates:
    """The gates of a run."""

    def __init__(self, at_once: AtOnce | None = None) -> None:
        self.at_once = at_once or AtOnce()
        self.episodes, self.boxes = Gate(self.at_once.episodes), Gate(self.at_once.boxes)
        self.model_calls, self.graders = Gate(self.at_once.model_calls), Gate(self.at_once.graders)
        self.creations = Rate(self.at_once.creations)

    def set(self, at_once: AtOnce) -> None:
        """Other limits from now on."""
        self.at_once = at_once
        for name, value in at_once:
            getattr(self, name).set(value)

    def state(self) -> dict[str, dict[str, Any]]:
        """Limit, places held and waiters of each gate."""
        gates = ("episodes", "boxes", "model_calls", "graders")
        found: dict[str, dict[str, Any]] = {
            name: {"limit": gate.limit, "held": gate.held, "waiting": gate.waiting}
            for name in gates
            if (gate := getattr(self, name))
        }
        found["creations"] = {"limit": self.creations.limit}
        return found
