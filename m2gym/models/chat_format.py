"""What chat formats share: pieces of text and marks become ids; a history is extended by its new
part only.

A `Mark` is a token of the format. Where the tokenizer has it as one token it is that token, else
it is spelt. Everything else is plain text, in which no special token is recognised.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.tools import ToolSchema
from m2gym.models.messages import Message
from m2gym.models.tokenizer import Tokenizer
from m2gym.models.tool_parsing import Found, loose_calls

Messages = Sequence[dict[str, Any]]


class Mark(str):
    """A token of the format, spelt out."""

    __slots__ = ()


class TurnFormat(ABC):
    """A format of turns, each ended by one mark.

    Args:
        tokenizer: has ``end`` as one token, else `InputError`.
        keep_thinking: render all thinking of the history, so that every prompt extends the last
            one (the M2 paper's way). Else only that after the last user message (the published
            chat template's): each user message then rewrites the history.
    """

    end: Mark
    marks: tuple[Mark, ...]

    def __init__(self, tokenizer: Tokenizer, *, keep_thinking: bool = True) -> None:
        self.tokenizer, self.keep_thinking = tokenizer, keep_thinking
        id = tokenizer.special(self.end)
        if id is None:
            raise InputError(f"the tokenizer has no token {str(self.end)!r}, which ends every turn")
        self.end_id = id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return (self.end_id,)

    @abstractmethod
    def head(self, system: str | None, tools: Sequence[ToolSchema]) -> Iterator[str]:
        """The turn before all others; ``system`` is ``None`` where there is no such message."""

    @abstractmethod
    def turns(self, messages: Messages, thinking_from: int) -> Iterator[str]:
        """Turns of messages; thinking is rendered from the message ``thinking_from`` on."""

    @abstractmethod
    def prompt(self) -> Iterator[str]:
        """What stands before an answer."""

    @abstractmethod
    def find(self, text: str, tools: Sequence[ToolSchema] | None) -> tuple[str, Found]:
        """Thinking, and what the rest of an answer's text holds."""

    def text(self, messages: Messages, tools: Sequence[ToolSchema] = ()) -> str:
        """A prompt as text."""
        return "".join(self._pieces(messages, tools))

    def render(self, messages: Messages, tools: Sequence[ToolSchema] = ()) -> list[int]:
        """Ids of a whole prompt."""
        return self.ids(self._pieces(messages, tools))

    def extend(self, node: Sequence[int], messages: Messages) -> list[int] | None:
        """Ids that follow ``node`` (a prompt and its answer) for the new ``messages``.

        An answer that was cut off is ended first. ``None`` where the format rewrites the history.
        """
        if not self.keep_thinking and any(m["role"] == "user" for m in messages):
            return None
        return self.ids(self._after(messages, ended=node[-1] == self.end_id))

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSchema] | None = None) -> Message:
        """The message of an answer's ids; broken calls stand in ``malformed``."""
        kept = list(ids)
        while kept and kept[-1] in self.stop_ids:
            kept.pop()
        thinking, found = self.find(self.tokenizer.decode(kept), tools)
        if not found.calls and not found.malformed:
            found = loose_calls(found.text, tools) or found
        return found.message(thinking)

    def ids(self, pieces: Iterable[str]) -> list[int]:
        """Pieces as ids."""
        out: list[int] = []
        text: list[str] = []
        for piece in pieces:
            id = self.tokenizer.special(piece) if isinstance(piece, Mark) else None
            if id is None:
                text.append(piece)
                continue
            if text:
                out += self.tokenizer.encode("".join(text))
                text.clear()
            out.append(id)
        if text:
            out += self.tokenizer.encode("".join(text))
        return out

    def spell(self, text: str) -> list[int]:
        """Ids of a text whose marks are meant as tokens: a script's, never an agent's."""
        parts = re.split("(" + "|".join(map(re.escape, self.marks)) + ")", text)
        return self.ids(Mark(part) if part in self.marks else part for part in parts)

    def _pieces(self, messages: Messages, tools: Sequence[ToolSchema]) -> Iterator[str]:
        first = next((n for n, m in enumerate(messages) if m["role"] != "system"), len(messages))
        system = "\n\n".join(text_only(m) for m in messages[:first]) if first else None
        yield from self.head(system, tools)
        rest = messages[first:]
        last_user = max((n for n, m in enumerate(rest) if m["role"] == "user"), default=-1)
        yield from self.turns(rest, 0 if self.keep_thinking else last_user + 1)
        yield from self.prompt()

    def _after(self, messages: Messages, *, ended: bool) -> Iterator[str]:
        if not ended:
            yield self.end
        yield "\n"
        yield from self.turns(messages, 0)
        yield from self.prompt()


def text_only(message: dict[str, Any]) -> str:
    """A message's text.

    Raises:
        InputError: it holds an image, which token formats of text models cannot carry.
    """
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    for block in content:
        if block["type"] != "text":
            raise InputError(f"this model takes text only, the message has {block['type']!r}")
    return "".join(block["text"] for block in content)
