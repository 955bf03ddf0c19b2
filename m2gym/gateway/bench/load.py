"""A load generator: sessions that send, wait for the whole answer, think, and send again.

    python -m m2gym.gateway.bench.load SPEC_JSON

It prints what came as JSON: a `Measured`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from m2gym.gateway.bench.http1 import message_end, run_loop


@dataclass(frozen=True)
class Load:
    """What is sent. ``secret`` gets ``.cN`` behind it for session N where ``named``."""

    port: int
    path: str = "/v1/chat/completions"
    secret: str = "sk-bench"
    named: bool = False
    connections: int = 1
    seconds: float = 3.0
    think: float = 0.0
    stream: bool = False
    model: str = "bench"
    requests: int = 0
    """Requests a session; 0: as many as fit into ``seconds``."""

    def request(self, session: int) -> bytes:
        """The bytes of a session's request."""
        messages = [
            {"role": "system", "content": "You are a careful programmer. " * 4},
            {"role": "user", "content": f"Session {session}: say what you see. " * 4},
        ]
        body = json.dumps({"model": self.model, "messages": messages, "stream": self.stream})
        key = f"{self.secret}.c{session}" if self.named else self.secret
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()


@dataclass
class Measured:
    """Answers a second, and milliseconds until an answer was whole and until its body began.

    The tenth percentile is what an answer takes that nothing else on the machine held up.
    """

    per_second: float = 0.0
    p10_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    first_ms: float = 0.0
    answers: int = 0
    failed: list[str] = field(default_factory=list)


class Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load, number: int, done: asyncio.Future[None]) -> None:
        self._load, self._request, self._done = load, load.request(number), done
        self._buffer = bytearray()
        self._transport: Any = None
        self._begun = self._first = 0.0
        self._ends = time.perf_counter() + load.seconds
        self.times: list[float] = []
        self.firsts: list[float] = []
        self.failed: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request; thinking sessions begin spread over their first second."""
        self._transport = transport
        wait = self._load.think * (hash(id(self)) % 997) / 997
        asyncio.get_running_loop().call_later(wait, self._send)

    def _send(self) -> None:
        self._begun, self._first = time.perf_counter(), 0.0
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take the time once the answer is whole."""
        self._buffer += data
        now = time.perf_counter()
        if not self._first and b"word0" in self._buffer:
            self._first = now
        if message_end(self._buffer) < 0:
            return
        if not self._buffer.startswith(b"HTTP/1.1 200") and len(self.failed) < 3:
            self.failed.append(bytes(self._buffer[:300]).decode("utf-8", "replace"))
        self._buffer.clear()
        self.times.append(now - self._begun)
        self.firsts.append((self._first or now) - self._begun)
        enough = self._load.requests and len(self.times) >= self._load.requests
        if enough or (not self._load.requests and now + self._load.think > self._ends):
            self._transport.close()
        elif self._load.think:
            asyncio.get_running_loop().call_later(self._load.think, self._send)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The session is over."""
        if not self.times:
            self.failed.append(f"connection lost: {exc}")
        if not self._done.done():
            self._done.set_result(None)


async def drive(load: Load) -> Measured:
    """Run all sessions of a load."""
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    sessions, waits = [], []
    for number in range(load.connections):
        done = loop.create_future()
        _, session = await loop.create_connection(
            lambda number=number, done=done: Session(load, number, done),  # type: ignore[misc]
            "127.0.0.1",
            load.port,
        )
        sessions.append(session)
        waits.append(done)
    await asyncio.gather(*waits)
    seconds = time.perf_counter() - begun
    times = sorted(t for s in sessions for t in s.times)
    firsts = [t for s in sessions for t in s.firsts]
    failed = [f for s in sessions for f in s.failed]
    if not times:
        return Measured(failed=failed[:3])
    return Measured(
        per_second=len(times) / seconds,
        p10_ms=times[len(times) // 10] * 1e3,
        p50_ms=statistics.median(times) * 1e3,
        p99_ms=times[min(len(times) - 1, int(len(times) * 0.99))] * 1e3,
        first_ms=statistics.median(firsts) * 1e3,
        answers=len(times),
        failed=failed[:3],
    )


if __name__ == "__main__":
    print(json.dumps(asdict(run_loop(drive(Load(**json.loads(sys.argv[1])))))))
