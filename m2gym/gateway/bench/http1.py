"""The least of HTTP/1.1 that a load generator and an upstream need, at asyncio's own speed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def content_length(head: bytes) -> int | None:
    """The body's length that a head names; ``None`` without one."""
    lowered = head.lower()
    at = lowered.find(b"content-length:")
    if at < 0:
        return None
    return int(lowered[at + 15 :].split(b"\r\n", 1)[0])


def message_end(buffer: bytes | bytearray) -> int:
    """Where the first whole message of ``buffer`` ends; -1 while it is not whole.

    A chunked body counts as whole when the buffer ends in the last chunk: there is no pipelining.
    """
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return -1
    head = bytes(buffer[: head_end + 2])
    length = content_length(head)
    if length is not None:
        end = head_end + 4 + length
        return end if len(buffer) >= end else -1
    if b"chunked" in head.lower():
        return len(buffer) if buffer.endswith(b"\r\n0\r\n\r\n") else -1
    return head_end + 4


def run_loop(main: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where it is installed: the measuring side is not to be the bottleneck."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
