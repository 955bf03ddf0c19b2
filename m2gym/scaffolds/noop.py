"""The agent that does nothing: what a task's reward must give less than 1 for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.protocols import Episode


@dataclass
class Noop:
    """Submits at once."""

    name: str = field(default="noop", init=False)
    uses_model: ClassVar[bool] = False

    async def run(self, episode: Episode) -> None:
        await episode.submit()
