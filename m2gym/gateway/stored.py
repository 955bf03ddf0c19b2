"""Answers that a client of the responses dialect may go on from by their id.

``store`` is true unless a request says otherwise, as at OpenAI. What is kept lives as long as the
session; it is the conversation as it was sent, not as it is recorded (keys stay in it).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from m2gym.core.trajectory import Completion
from m2gym.gateway.fault import Fault
from m2gym.gateway.fields import Object

if TYPE_CHECKING:
    from m2gym.gateway.call import Call

KEPT = 1000
"""Answers of a session that are kept, the last ones; the project's choice."""


@dataclass(frozen=True, slots=True)
class _Kept:
    call: Call
    completion: Completion
    created: int


class Stored:
    """A session's answers by their ids."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def keep(self, id: str, call: Call, completion: Completion, created: int) -> None:
        """Keep an answer, where its request does not forbid it."""
        if call.store:
            self._kept[id] = _Kept(call, completion, created)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def behind(self, call: Call) -> Call:
        """The call with the conversation that it goes on from.

        Raises:
            Fault: there is none of that id.
        """
        if not call.previous:
            return call
        held = self._find(call.previous, "previous_response_id")
        asked, before = call.request, held.call
        # instructions are those of the newest request only
        first, fresh = asked.messages[: call.instructions], asked.messages[call.instructions :]
        said = before.request.messages[before.instructions :]
        messages = [*first, *said, held.completion.message, *fresh]
        return replace(call, request=replace(asked, messages=messages))

    def get(self, id: str) -> _Kept:
        """An answer.

        Raises:
            Fault: there is none of that id.
        """
        return self._find(id, "response_id")

    def delete(self, id: str) -> Object:
        """Forget an answer; what is said of it."""
        self._find(id, "response_id")
        del self._kept[id]
        return {"id": id, "object": "response", "deleted": True}

    def _find(self, id: str, field: str) -> _Kept:
        held = self._kept.get(id)
        if held is not None:
            return held
        previous = field == "previous_response_id"
        raise Fault(
            "invalid" if previous else "not_found",
            f"{'Previous response' if previous else 'Response'} with id {id[:80]!r} not found: "
            f"this session keeps its last {KEPT} answers, of requests without store=false",
            param=field,
            code="previous_response_not_found" if previous else None,
        )
