"""JSON and server-sent events as bytes."""

from __future__ import annotations

import json
from typing import Any

import orjson

from m2gym.gateway.fault import Fault

loads = orjson.loads


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8; lone surrogates, which UTF-8 cannot hold, stay escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def dumps_text(value: Any) -> str:
    """`dumps` as text, for arguments of tools."""
    return dumps(value).decode()


def parse_body(body: bytes) -> dict[str, Any]:
    """The request's JSON object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        shown = body[:40].decode("utf-8", "replace")
        raise Fault(
            "invalid", f"the body is no JSON in UTF-8: {error} (it begins {shown!r})"
        ) from None
    if not isinstance(value, dict):
        raise Fault("invalid", f"the body is to be a JSON object, got a {type(value).__name__}")
    return value


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event of data only."""
    return b"data: " + dumps(value) + b"\n\n"


def named_event(value: dict[str, Any]) -> bytes:
    """One server-sent event with its ``event:`` line, which is the value's type."""
    kind: str = value["type"]
    return b"event: " + kind.encode() + b"\ndata: " + dumps(value) + b"\n\n"
