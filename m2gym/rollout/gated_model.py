"""A model whose calls of one episode go through the run's gate, their waiting counted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from m2gym.core.protocols import Delta, Model, ModelRequest, Session
from m2gym.core.waiting import Waiting, count_in
from m2gym.rollout.gates import Gate


class GatedModel:
    """``model``, each call of it holding a place at ``gate``."""

    def __init__(self, model: Model, gate: Gate, clock: Waiting) -> None:
        self.model, self.gate, self.clock = model, gate, clock

    async def stream(self, request: ModelRequest, session: Session) -> AsyncGenerator[Delta, None]:
        """The model's deltas, once there is a place."""
        count_in(self.clock)
        with self.clock.time("model"):
            await self.gate.acquire()
        try:
            pieces = cast("AsyncGenerator[Delta, None]", self.model.stream(request, session))
            async with aclosing(pieces):
                async for delta in pieces:
                    yield delta
        finally:
            self.gate.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
