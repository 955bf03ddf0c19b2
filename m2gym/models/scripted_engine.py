"""An engine that says what it was told to: a scripted model with an exact record."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from m2gym.core.errors import InputError
from m2gym.core.protocols import Sampling, TokenOutput
from m2gym.models.chat_format import TurnFormat

Say = Callable[[Sequence[int]], str]
"""A prompt's ids → the text of the answer."""


class ScriptedEngine:
    """Answers in turn (or by a function of the prompt), each ended by the format's end of turn.

    A text's marks (``</think>``, ``<minimax:tool_call>`` …) become the format's tokens. Logprobs
    are made up from the ids, the same each time; ``weight_version`` is what `update_weights` set.
    """

    def __init__(self, format: TurnFormat, answers: Sequence[str] | Say) -> None:
        self.format, self._answers = format, answers
        self.weight_version = 0
        self.calls = 0

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, session_id: str
    ) -> TokenOutput:
        """The next answer, cut at ``max_tokens``."""
        if callable(self._answers):
            text = self._answers(ids)
        elif self.calls < len(self._answers):
            text = self._answers[self.calls]
        else:
            raise InputError(f"the script has {len(self._answers)} answers and one more was asked")
        self.calls += 1
        said = [*self.format.spell(text), self.format.end_id]
        kept = said[: sampling.max_tokens]
        return TokenOutput(
            tuple(kept),
            tuple(
                -(zlib.crc32(bytes(f"{n} {id}", "ascii")) % 1000) / 500 for n, id in enumerate(kept)
            ),
            (self.weight_version,) * len(kept),
            "stop" if len(kept) == len(said) else "length",
        )

    async def abort(self, session_id: str) -> None:
        """Nothing runs on."""

    async def pause(self) -> None:
        """Nothing runs on."""

    async def update_weights(self, version: int) -> None:
        """Tokens from now on carry ``version``."""
        self.weight_version = version

    async def resume(self) -> None:
        """Nothing was stopped."""
