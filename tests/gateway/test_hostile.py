"""Hostile clients and broken upstreams, over real HTTP, in every dialect: the right status in its
form, the session intact, the fault on record with its cause."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import pytest

from m2gym.backends.openai_chat import OpenAIChatModel
from m2gym.backends.openai_client import Client
from m2gym.backends.retry import Retry
from m2gym.gateway import Gateway, exchange, server, turns
from m2gym.models.scripted import Call, ScriptedModel, Turn
from m2gym.models.session import RecordedSession
from tests.backends.server import Upstream, serving
from tests.gateway.sessions import Say, Talk
from tests.gateway.test_server import BODIES, STREAMS, message_of, until

FAILURES = [
    ((429, {"Retry-After": "7"}, {"error": {"message": "slow"}}), 429, "rate_limit"),
    ((500, {}, {"error": {"message": "boom"}}), 500, "server"),
    ((503, {}, {"error": {"message": "busy"}}), 503, "server"),
    ((401, {}, {"error": {"message": "bad key sk-" + "A" * 40}}), 401, "auth"),
    ((400, {}, {"error": {"message": "no such field"}}), 400, "refused"),
    ("hang", 504, "timeout"),
    ("cut", 500, "broken"),
]


@contextlib.asynccontextmanager
async def behind(gateway, *answers):
    """A session over a real server that says ``answers``, each failure told at once."""
    async with serving(Upstream([*answers])) as upstream:
        client = Client(upstream.url, timeout=0.3)
        session = RecordedSession(OpenAIChatModel(client, "tiny", retry=Retry(tries={})))
        yield session, gateway.add(session)
        await client.close()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("said", "status", "cause"), FAILURES)
async def test_an_upstreams_failure(gateway, http, path, said, status, cause):
    async with behind(gateway, said, "Fine.") as (session, access):
        async with http.post(access.url + path, json=BODIES[path]) as got:
            told = message_of(path, await got.json())
            assert got.status == status, told
            assert ("Retry-After" in got.headers) == (status in (429, 503))
            assert "AAAA" not in told
        assert [fault.cause for fault in session.faults] == [cause]
        assert "AAAA" not in session.faults[0].message
        async with http.post(access.url + path, json=BODIES[path]) as got:
            assert got.status == 200
            assert "Fine." in await got.text()
        assert len(session.completions) == 1


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_that_breaks_half_way(gateway, http, path, monkeypatch):
    monkeypatch.setattr(exchange, "HOLD", 0.0)
    async with behind(gateway, "cut", "Fine.") as (session, access):
        async with http.post(access.url + path, json=STREAMS[path]) as got:
            raw = await got.text()
            assert "error" in raw
            assert "half-way" in raw or "broke off" in raw, raw
        assert [fault.cause for fault in session.faults] == ["broken"]
        assert not session.completions
        async with http.post(access.url + path, json=STREAMS[path]) as got:
            assert got.status == 200
            assert "Fine" in await got.text()


@pytest.mark.parametrize("path", STREAMS)
async def test_a_client_that_goes_away_in_the_middle(gateway, http, path, monkeypatch):
    monkeypatch.setattr(turns, "GRACE", 0.05)
    turn = Turn(text="first " + "word " * 50, delay=0.05)
    session = RecordedSession(ScriptedModel([turn]))
    access = gateway.add(session)
    async with http.post(access.url + path, json=STREAMS[path]) as got:
        raw = b""
        while b"first" not in raw:
            raw += await got.content.readany()
        got.close()
    await until(lambda: session.faults)
    assert [fault.cause for fault in session.faults] == ["cancelled"]
    assert not session.completions
    assert not gateway.entries()[0].running
    session.model.turns = (Turn(text="again"),)
    async with http.post(access.url + path, json=STREAMS[path]) as got:
        assert "again" in await got.text()
    assert len(session.completions) == 1


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_that_does_not_come(gateway, path, monkeypatch):
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.1)
    talk = Talk([Say("x")])
    access = gateway.add(talk)
    host, port = gateway.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {access.prefix}{path} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{{"
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(4000), 20)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 408 " in head
    assert "did not come" in message_of(path, json.loads(body))
    writer.close()
    assert not talk.requests


RAW = [
    b"\x00\x01\x02\xff\xfe\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: \xff\xc3\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /s/%00%ff../v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("raw", RAW)
async def test_what_is_no_http_harms_nobody(gateway, http, raw):
    access = gateway.add(Talk([Say("still here")]))
    host, port = gateway.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(4000), 20)
        assert not answer or answer.split(b" ", 2)[1][:1] == b"4", answer
    writer.close()
    path = "/v1/messages"
    async with http.post(access.url + path, json=BODIES[path]) as got:
        assert got.status == 200


async def test_connections_are_bounded(http, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 5)
    gateway = Gateway()
    try:
        await gateway.start()
        host, port = gateway.base_url.removeprefix("http://").split(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        reader, extra = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(1), 20) == b""
        extra.close()
        for _, writer in opened:
            writer.close()
        access = gateway.add(Talk([Say("free again")]))
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with http.post(
                        access.url + "/v1/messages", json=BODIES["/v1/messages"]
                    ) as got:
                        assert got.status == 200
                        break
                await asyncio.sleep(0.05)
    finally:
        await gateway.stop()


@pytest.mark.parametrize("path", BODIES)
async def test_large_bodies_at_once_are_bounded(http, path, monkeypatch):
    monkeypatch.setattr(exchange, "HELD", 2)
    gateway = Gateway(max_body=2000)
    await gateway.start()
    talk = Talk([Say("x")], gate=asyncio.Event())
    access = gateway.add(talk)

    def ask(number: int):
        text = json.dumps(BODIES[path]).replace("Hi", f"Hi {number}")
        return http.post(access.url + path, data=text.ljust(1900).encode())

    running = [asyncio.create_task(ask(number)) for number in (1, 2)]
    await until(lambda: len(talk.requests) == 2)
    async with ask(3) as got:
        assert got.status == 429
        assert "too large together" in message_of(path, await got.json())
        assert "Retry-After" in got.headers
    talk.gate.set()
    for made in await asyncio.gather(*running):
        assert made.status == 200
        made.release()
    async with ask(4) as got:
        assert got.status == 200
    assert gateway.entries()[0].held == 0
    await gateway.stop()


async def test_keys_are_on_record_nowhere(gateway, http):
    """In what the agent sends and its tools declare, and in what the model says and calls."""
    key = "sk-ant-" + "k" * 40
    turn = Turn(
        text=f"use {key}", thinking=key, calls=(Call(name="f", arguments={"key": key}),),
        hosted=({"name": "web_search", "input": {"query": key}, "output": [key]},),
    )  # fmt: skip
    told = []
    session = RecordedSession(ScriptedModel([turn]), record=told.append)
    url = gateway.add(session).url + "/v1/chat/completions"
    function = {"name": "f", "description": key, "parameters": {"type": "object", "title": key}}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": key}]}],
        "tools": [{"type": "function", "function": function}],
    }
    async with http.post(url, json=body) as got:
        assert key in await got.text()
    assert len(told) == 1
    assert key not in told[0].model_dump_json()
    assert key not in session.completions[0].model_dump_json()
