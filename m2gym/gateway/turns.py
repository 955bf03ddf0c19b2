"""Calls of a session's model that are under way, and who waits for each.

join ──► task drives session.stream ──► deltas ──► every follower reads them from the start
  ▲            │ last follower gone for GRACE seconds: cancelled
  └── the same request again (a retry, a second try after a time-out) joins the running turn,
      or the finished one whose answer reached nobody, instead of making a second turn
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from m2gym.core.protocols import Delta, ModelRequest, Session
from m2gym.core.trajectory import Completion
from m2gym.gateway.fault import Fault

GRACE = 10.0
"""Seconds that a turn goes on for nobody before it is cancelled; the project's choice."""

KEEP = 120.0
"""Seconds that an answer which reached nobody is kept for a retry; the project's choice."""


class Turn:
    """One call of the model. It is over with a ``completion`` or an ``error``."""

    def __init__(self, session: Session, request: ModelRequest) -> None:
        self.request = request
        self.deltas: list[Delta] = []
        self.completion: Completion | None = None
        self.error: BaseException | None = None
        self.followers = 0
        self.delivered = False
        self._session = session
        self._waiting: list[asyncio.Future[None]] = []
        self._finishing: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(self._run())
        self.task.add_done_callback(self._settle)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.completion is not None or self.error is not None

    def follow(self) -> None:
        """One more waits for the answer."""
        self.followers += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """One went away; when none is left for `GRACE` seconds the call is cancelled."""
        self.followers -= 1
        if self.followers == 0 and not self.over:
            self._timer = self._loop.call_later(GRACE, self.cancel)

    def cancel(self) -> None:
        """Stop the call; the session records it as cancelled."""
        self.task.cancel()

    async def more(self, seen: int, seconds: float) -> None:
        """Wait until there are more than ``seen`` deltas, or it is over, or the time has passed."""
        if len(self.deltas) > seen or self.over:
            return
        future = self._loop.create_future()
        timer = self._loop.call_later(seconds, _wake, future)
        self._waiting.append(future)
        try:
            await future
        finally:
            timer.cancel()

    async def finished(self) -> None:
        """Wait until it is over."""
        if not self.over:
            future = self._loop.create_future()
            self._finishing.append(future)
            await future

    async def _run(self) -> None:
        async for delta in self._session.stream(self.request):
            self.deltas.append(delta)
            if delta.completion is not None:
                self.completion = delta.completion
                self._wake(self._finishing)
            self._wake(self._waiting)

    def _settle(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            error: BaseException | None = Fault("ended", "the call was cancelled")
        else:
            error = task.exception()
        if self.completion is None:
            self.error = error or Fault("internal", "the model ended without a completion")
        self._wake(self._finishing)
        self._wake(self._waiting)

    def _wake(self, futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            _wake(future)
        futures.clear()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Turns:
    """The turns of one session that somebody may still ask for."""

    def __init__(self) -> None:
        self._kept: list[Turn] = []

    def __iter__(self) -> Iterator[Turn]:
        return iter(self._kept)

    def join(self, session: Session, request: ModelRequest) -> Turn:
        """The running (or undelivered) turn of an equal request, else a new one; call `leave`."""
        for turn in self._kept:
            if turn.error is None and turn.request == request:
                turn.follow()
                return turn
        turn = Turn(session, request)
        turn.follow()
        self._kept.append(turn)
        return turn

    def leave(self, turn: Turn, *, delivered: bool) -> None:
        """A follower is done. A turn that somebody got, or that failed, is not kept."""
        turn.delivered = turn.delivered or delivered
        turn.leave()
        if turn.followers > 0:
            return
        if turn.delivered or turn.error is not None:
            self._forget(turn)
        else:
            asyncio.get_running_loop().call_later(KEEP, self._expire, turn)

    def cancel(self) -> None:
        """Stop every call."""
        for turn in self._kept:
            turn.cancel()
        self._kept.clear()

    def _expire(self, turn: Turn) -> None:
        if turn.followers == 0:
            self._forget(turn)

    def _forget(self, turn: Turn) -> None:
        if turn in self._kept:
            self._kept.remove(turn)
