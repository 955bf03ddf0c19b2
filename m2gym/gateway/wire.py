"""JSON and server-sent events as bytes."""

from __future__ import annotations

import json
from typing import Any

import orjson

from m2gym.gateway.fault import Fault

loads = orjson.loads


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8, on one line for every client.

    Some clients split a stream at any of Unicode's line ends, so the three that JSON leaves bare
    are escaped; lone surrogates, which UTF-8 cannot hold, stay escaped too.
    """
    try:
        out = orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()
    if not out.isascii():
        for bare, escaped in _LINE_ENDS:
            if bare in out:
                out = out.replace(bare, escaped)
    return out


_LINE_ENDS = (
    ("\u0085".encode(), b"\\u0085"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def dumps_text(value: Any) -> str:
    """Compact JSON as text, for arguments of tools."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, separators=(",", ":"))


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
