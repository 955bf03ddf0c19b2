"""Counting a prompt's tokens without calling the model."""

from __future__ import annotations

from dataclasses import replace

from m2gym.core.protocols import Session
from m2gym.gateway.call import Call
from m2gym.gateway.wire import dumps
from m2gym.models.messages import canonical

BYTES_A_TOKEN = 4
"""Bytes of JSON a token, where the session's model cannot count; the project's choice."""


def count_tokens(session: Session, call: Call) -> int:
    """The prompt's tokens: the model's own count where it has one, else an estimate by size."""
    count = getattr(getattr(session, "model", None), "count", None)
    if count is not None:
        messages = [canonical(message) for message in call.request.messages]
        return int(count(replace(call.request, messages=messages)))
    tools = [tool.model_dump() for tool in call.request.tools]
    return len(dumps([list(call.request.messages), tools])) // BYTES_A_TOKEN + 1
