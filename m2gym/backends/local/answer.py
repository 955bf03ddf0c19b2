"""One answer in the making: what it asks for, what is fed next, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from m2gym.backends.local.sampler import Draw
from m2gym.backends.local.store import Row
from m2gym.core.protocols import Sampling, TokenOutput

REACH = 16
"""Tokens beyond a stop string's own characters that are decoded to look for it; ours."""


@dataclass(eq=False)
class Answer:
    """An answer to ``prompt`` of at most ``most`` tokens, for whoever waits for ``future``.

    ``row`` is its place in the store while it runs; ``stop`` is why it ended: ``stop``, ``length``
    or ``abort``.
    """

    prompt: list[int]
    sampling: Sampling
    session: str
    most: int
    random: np.random.Generator
    future: asyncio.Future[TokenOutput]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    row: Row | None = None
    stop: str | None = None

    @property
    def last(self) -> int:
        """The id that is fed next when only one is behind."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    def todo(self) -> list[int]:
        """Ids without keys and values; at least the last."""
        assert self.row is not None
        done = self.row.base + len(self.row.ids)
        behind = done - len(self.prompt)
        return self.ids[behind:] if behind >= 0 else [*self.prompt[done:], *self.ids]

    def draw(self) -> Draw:
        """How the next token is taken; uses up a random number."""
        how = self.sampling
        return Draw(how.temperature, how.top_p, how.top_k, self.random.random())

    def take(
        self,
        token: int,
        logprob: float,
        version: int,
        stop_ids: frozenset[int],
        decode: Callable[[Sequence[int]], str] | None,
    ) -> None:
        """The next token, of that version of the weights; it may end the answer."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.versions.append(version)
        if token in stop_ids or self._said_stop(decode):
            self.stop = "stop"
        elif len(self.ids) >= self.most:
            self.stop = self.stop or "length"

    def output(self) -> TokenOutput:
        """What there is."""
        return TokenOutput(
            tuple(self.ids), tuple(self.logprobs), tuple(self.versions), self.stop or "stop"
        )

    def _said_stop(self, decode: Callable[[Sequence[int]], str] | None) -> bool:
        if not self.sampling.stop or decode is None:
            return False
        longest = max(len(text.encode()) for text in self.sampling.stop)
        text = decode(self.ids[-(longest + REACH) :])
        return any(stop in text for stop in self.sampling.stop)
