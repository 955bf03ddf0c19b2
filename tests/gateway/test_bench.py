"""The benchmark's own parts, small: what it measures is really answered by the gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from m2gym.core.errors import InfraError
from m2gym.gateway.bench import compare
from m2gym.gateway.bench.http1 import message_end
from m2gym.gateway.bench.load import Load
from m2gym.models.load import load_model


@pytest.fixture
def upstream():
    with compare._module("upstream", "20", core=0) as (port, _):
        yield port


def test_ours_and_the_plain_proxy_answer_every_request(upstream):
    with compare._ours(upstream) as ours, compare._peer("p", "peer_aiohttp", upstream) as plain:
        for proxy in (ours, plain):
            load = Load(proxy.port, secret=proxy.secret, named=proxy.named, connections=3)
            for stream in (False, True):
                asked = json.dumps(asdict(load) | {"requests": 2, "stream": stream})
                command = [sys.executable, "-m", "m2gym.gateway.bench.load", asked]
                out = subprocess.run(command, capture_output=True, text=True, check=True)
                measured = json.loads(out.stdout)
                assert (measured["answers"], measured["failed"]) == (6, [])
            assert compare.memory_mb(proxy.pid) > 1


async def test_the_upstream_speaks_the_dialect(upstream):
    from m2gym.core.protocols import ModelRequest
    from m2gym.models.session import RecordedSession

    model = load_model(f"openai-compatible:http://127.0.0.1:{upstream}/v1#bench")
    session = RecordedSession(model)
    asked = ModelRequest([{"role": "user", "content": "Hi"}])
    made = await session.complete(asked)
    assert made.message["content"].split() == [f"word{n}" for n in range(20)]
    assert made.usage.completion_tokens == 20


def test_a_load_that_fails_is_no_figure(upstream):
    with pytest.raises(InfraError, match="no 200"), compare._ours(upstream) as ours:
        compare._drive(Load(ours.port, secret="sk-wrong", seconds=0.1))


@pytest.mark.parametrize(
    ("raw", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", 40),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", -1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 58),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", -1),
        (b"HTTP/1.1 200", -1),
    ],
)
def test_where_a_message_ends(raw, end):
    assert message_end(raw) == end
