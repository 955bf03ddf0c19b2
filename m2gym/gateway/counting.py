"""Counting a prompt's tokens without calling the model."""

from __future__ import annotations

import inspect

from m2gym.core.protocols import Session
from m2gym.gateway.call import Call
from m2gym.gateway.wire import dumps

BYTES_A_TOKEN = 4
"""Bytes of JSON a token, where the session's model cannot count; the project's choice."""


async def count_tokens(session: Session, call: Call) -> int:
    """The prompt's tokens: the model's own count where it has one, else an estimate by size."""
    counter = getattr(getattr(session, "model", session), "count_tokens", None)
    if counter is not None:
        counted = counter(call.request)
        return int(await counted if inspect.isawaitable(counted) else counted)
    tools = [tool.model_dump() for tool in call.request.tools]
    return len(dumps([list(call.request.messages), tools])) // BYTES_A_TOKEN + 1
