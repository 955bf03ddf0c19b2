"""``m2gym bench recorder``, the gateway's part: what a turn costs from a request's bytes on.

A client of each dialect sends its whole history with each turn, as agents do; Anthropic's moves its
cache mark to the last message. Its requests are made beforehand: making one runs through as much
memory as the history has, and would be felt in what is measured after it.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

from m2gym.gateway.fields import Object
from m2gym.gateway.repeats import Repeats
from m2gym.gateway.routes import route
from m2gym.models.bench import SAID, SESSIONS, TURNS, heard, row
from m2gym.models.scripted import BYTES_A_TOKEN, ScriptedModel, Turn
from m2gym.models.session import RecordedSession

ANSWER = "abc " * SAID

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}


def run() -> list[dict[str, Any]]:
    """One row a dialect: CPU milliseconds of reading and recording a turn."""
    return [asyncio.run(_case(dialect)) for dialect in PATHS]


async def _case(dialect: str) -> dict[str, Any]:
    spans, tokens = [], 0
    for _ in range(SESSIONS):
        session = RecordedSession(ScriptedModel(lambda request: Turn(text=ANSWER)))
        spans.append(await _session(session, dialect))
        tokens = session.completions[-1].usage.prompt_tokens
    return row("messages", f"a client's bytes, {dialect}", tokens, spans)


async def _session(session: RecordedSession, dialect: str) -> list[float]:
    repeats, where = Repeats(), route("POST", PATHS[dialect])
    spans = []
    for body in _bodies(dialect):
        begun = time.thread_time()
        call = repeats.read(body, where)
        await session.complete(replace(call.request, constant=True))
        spans.append(time.thread_time() - begun)
    assert all(c.parent is not None for c in session.completions[1:])
    return spans


def _bodies(dialect: str) -> list[bytes]:
    history: list[Object] = []
    bodies = []
    for turn in range(TURNS):
        history.append(_member(dialect, "user", heard(turn, BYTES_A_TOKEN)))
        bodies.append(_body(dialect, history))
        history.append(_member(dialect, "assistant", ANSWER))
    return bodies


def _member(dialect: str, role: str, text: str) -> Object:
    if dialect == "gemini":
        return {"role": "model" if role == "assistant" else role, "parts": [{"text": text}]}
    if dialect == "messages":
        return {"role": role, "content": [{"type": "text", "text": text}]}
    return {"role": role, "content": text}


def _body(dialect: str, history: list[Object]) -> bytes:
    sent = list(history)
    if dialect == "messages":
        [block] = sent[-1]["content"]
        sent[-1] = {**sent[-1], "content": [{**block, "cache_control": {"type": "ephemeral"}}]}
    key = {"responses": "input", "gemini": "contents"}.get(dialect, "messages")
    return json.dumps({"model": "m", "max_tokens": 1000, key: sent, "stream": False}).encode()
