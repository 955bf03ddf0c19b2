"""``shots``: one call of an invented tool, with worked examples as turns before the question.

The agent of environment ``tool-worlds``. What the model writes after its thinking is the call; what
the world answers to it is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from m2gym.core.errors import InputError
from m2gym.core.protocols import Episode, ModelRequest
from m2gym.tasksets.tool_worlds.taskset import questions_of

MOST = 8
"""Largest number of examples of each tool; ours."""


@dataclass
class Shots:
    """See the module.

    Attributes:
        shots: examples of each tool in the prompt; several numbers are mixed between tasks.
    """

    shots: int | Sequence[int] = 0
    name: str = field(default="shots", init=False)
    uses_model: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        numbers = [self.shots] if isinstance(self.shots, int) else list(self.shots)
        if not numbers or not all(isinstance(n, int) and 0 <= n <= MOST for n in numbers):
            raise InputError(
                f"shots: examples are a number from 0 to {MOST}, or several, got {self.shots!r}"
            )

    @classmethod
    def from_argument(cls, argument: str) -> Shots:
        """From the number of examples."""
        if not argument.isdigit():
            raise InputError(f"shots: the argument is a number of examples, got {argument!r}")
        return cls(shots=int(argument))

    def of(self, question: int) -> int:
        """Examples in the prompt of a question."""
        return self.shots if isinstance(self.shots, int) else self.shots[question % len(self.shots)]

    async def run(self, episode: Episode) -> None:
        session = episode.session
        if session is None:
            raise InputError("shots calls a model: the episode has no session")
        if "settings" not in episode.task.metadata:
            raise InputError("shots plays the environment tool-worlds only: its tasks name a world")
        asked = questions_of(episode.task)
        number = int(episode.task.metadata["number"])
        messages: list[dict[str, Any]] = asked.messages(asked.world(), number, self.of(number))
        said = (await session.complete(ModelRequest(messages=messages))).message
        await episode.act({"name": "call", "arguments": {"text": str(said.get("content") or "")}})
