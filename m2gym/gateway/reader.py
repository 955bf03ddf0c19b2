"""A request's members (messages, items, contents) become messages, one member after another.

Reading can go on from where an earlier request's left off, so that a history which a client sends
again is not read again (`m2gym.gateway.repeats`):

    members   m0 ─► m1 ─► m2 ─► m3          first request
    marks        k0 ─► k1 ─► k2 ─► k3       where the reader stood behind each
    members   m0 ─► m1 ─► m2 ─► n3 ─► n4    next request: goes on at k2, reads n3 and n4
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from m2gym.gateway.fields import Object, a_list, an_object


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a reader stood: how many messages there were, the last one, and what else it held."""

    count: int
    last: Object | None
    state: Any


@dataclass(slots=True)
class Past:
    """What was read: of an earlier request before, of the whole request afterwards.

    Attributes:
        marks: one a member.
        messages: at least those that the last mark counts.
    """

    marks: list[Mark] = field(default_factory=list)
    messages: list[Object] = field(default_factory=list)

    def until(self, members: int) -> Past:
        """Only the first so many members."""
        return Past(self.marks[:members], self.messages)


class Reader(ABC):
    """Base of the dialects' readers.

    A message is never changed once its member is read: a member that goes on with the last message
    puts a changed copy in its place. So requests may share messages.
    """

    def __init__(self) -> None:
        self.messages: list[Object] = []

    @abstractmethod
    def member(self, member: Object, where: str) -> None:
        """Read one more; ``where`` is its place in the request."""

    @property
    def state(self) -> Any:
        """What else decides how the next member is read."""
        return None

    @state.setter
    def state(self, state: Any) -> None:
        return

    def last_answer(self) -> Object:
        """The model's message that the next of its members goes on with, to be changed: a new one
        in the place of the last, or behind it where that is somebody else's."""
        said: Object = {"role": "assistant", "content": ""}
        if self.messages and self.messages[-1]["role"] == "assistant":
            said = dict(self.messages.pop())
            if "tool_calls" in said:
                said["tool_calls"] = list(said["tool_calls"])
        self.messages.append(said)
        return said

    def read(self, members: Any, where: str, past: Past) -> list[Object]:
        """The messages of what ``past`` holds and of ``members``, which come behind it."""
        if past.marks:
            mark = past.marks[-1]
            self.messages = past.messages[: mark.count]
            if mark.last is not None:
                self.messages[-1] = mark.last
            self.state = mark.state
        for number, member in enumerate(a_list(members, where), len(past.marks)):
            place = f"{where}[{number}]"
            self.member(an_object(member, place), place)
            said = self.messages
            past.marks.append(Mark(len(said), said[-1] if said else None, self.state))
        past.messages = self.messages
        return self.messages
