"""A model's server without latency: OpenAI chat completions from prepared bytes.

    python -m m2gym.gateway.bench.upstream CHUNKS

It prints its port. A body with ``"stream":true`` is answered by a stream of CHUNKS pieces in one
write; with the model ``slow`` its first piece comes `SLOW` seconds before the rest.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from m2gym.gateway.bench.http1 import message_end, run_loop

SLOW = 1.0
"""Seconds between the first piece and the others of a slow stream."""

HEAD = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "bench"}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({**HEAD, "choices": [choice], **more}).encode() + b"\n\n"


def framed(data: bytes) -> bytes:
    """A chunk of HTTP's chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole_answer() -> bytes:
    """The answer that is not streamed."""
    message = {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog."}
    body = {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
    }
    data = json.dumps(body).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(data) + data


def stream_parts(chunks: int) -> tuple[bytes, bytes]:
    """A streamed answer: head and first piece, and the rest."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    usage = {"prompt_tokens": 20, "completion_tokens": chunks, "total_tokens": 20 + chunks}
    rest = b"".join(framed(chunk({"content": f"word{n} "})) for n in range(1, chunks))
    rest += framed(chunk({}, "stop", usage=usage)) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return head + framed(chunk({"role": "assistant", "content": "word0 "})), rest


class Upstream(asyncio.Protocol):
    """Answers every request at once."""

    def __init__(self, whole: bytes, parts: tuple[bytes, bytes]) -> None:
        self._whole, self._parts = whole, parts
        self._all = b"".join(parts)
        self._buffer = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._buffer += data
        if (end := message_end(self._buffer)) < 0:
            return
        asked = bytes(self._buffer[:end]).replace(b" ", b"")
        del self._buffer[:end]
        if b'"stream":true' not in asked:
            self._transport.write(self._whole)
        elif b'"slow"' in asked:
            self._transport.write(self._parts[0])
            asyncio.get_running_loop().call_later(SLOW, self._transport.write, self._parts[1])
        else:
            self._transport.write(self._all)


async def main(chunks: int) -> None:
    """Serve on a free port until the process is ended."""
    whole, parts = whole_answer(), stream_parts(chunks)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(whole, parts), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1])))
