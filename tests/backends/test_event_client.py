"""Posting to a real server that answers well, badly, and not at all."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from m2gym.backends.event_client import EventClient
from m2gym.backends.plain_chunks import PlainChunks, is_plain
from m2gym.core.errors import ContextError, ModelError, RateLimitError


@pytest.fixture
async def served():
    runners = []

    async def serve(handle, **settings) -> EventClient:
        runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return EventClient(url, api_key="k", timeout=settings.get("timeout", 5.0))

    yield serve
    for runner in runners:
        await runner.cleanup()


def stream_of(*pieces: bytes, cut: bool = False):
    async def handle(request):
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for piece in pieces:
            await answer.write(piece)
            await asyncio.sleep(0.01)
        if cut:
            request.transport.close()
        return answer

    return handle


async def collect(client: EventClient, body: dict | None = None) -> list[dict]:
    return [chunk async for chunks in client.post("x", body or {}) for chunk in chunks]


async def test_chunks_come_whole_wherever_the_stream_is_cut_into_reads(served):
    raw = ': hello\n\ndata: {"a": "ü"}\r\n\r\nevent: e\ndata:{"b": 2}\n\ndata: [DONE]\n\n'.encode()
    for size in (1, 3, 7, 1000):
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert await collect(await served(stream_of(*pieces))) == [{"a": "ü"}, {"b": 2}]


async def test_a_last_event_without_an_end_counts(served):
    assert await collect(await served(stream_of(b'data: {"a": 1}'))) == [{"a": 1}]


async def test_a_whole_answer_is_one_object_and_the_request_is_json_with_the_key(served):
    async def handle(request):
        seen = {"body": await request.json(), "key": request.headers["Authorization"]}
        return web.json_response(seen)

    seen = await collect(await served(handle), {"n": 1})
    assert seen == [{"body": {"n": 1}, "key": "Bearer k"}]


@pytest.mark.parametrize(
    ("status", "message", "kind", "cause"),
    [
        (429, "slow down", RateLimitError, "rate_limit"),
        (401, "bad key", ModelError, "auth"),
        (400, "unknown field", ModelError, "refused"),
        (400, "maximum context length is 10", ContextError, None),
        (503, "busy", ModelError, "server"),
    ],
)
async def test_statuses_become_errors_by_cause(served, status, message, kind, cause):
    async def handle(request):
        body = {"error": {"message": message}}
        return web.json_response(body, status=status, headers={"Retry-After": "3"})

    with pytest.raises(kind, match=message) as caught:
        await collect(await served(handle))
    if cause is not None:
        assert (caught.value.cause, caught.value.status) == (cause, status)
        assert caught.value.retry_after == 3


@pytest.mark.parametrize(
    ("pieces", "cut", "cause"),
    [
        ([b'data: {"a": 1}\n\n', b'data: {"b'], True, "broken"),
        ([b"data: {nonsense}\n\n"], False, "broken"),
        ([b"data: \xff\xfe\n\n"], False, "broken"),
        ([b"data: [1]\n\n"], False, "broken"),
        ([b'data: {"error": {"message": "out of memory"}}\n\n'], False, "server"),
    ],
)
async def test_broken_streams_are_told_as_such(served, pieces, cut, cause):
    with pytest.raises(ModelError) as caught:
        await collect(await served(stream_of(*pieces, cut=cut)))
    assert caught.value.cause == cause


async def test_silence_and_nobody_there(served):
    async def handle(request):
        await asyncio.sleep(30)
        return web.Response()

    with pytest.raises(ModelError) as caught:
        await collect(await served(handle, timeout=0.1))
    assert caught.value.cause == "timeout"
    with pytest.raises(ModelError) as caught:
        await collect(EventClient("http://127.0.0.1:1/v1", api_key="k", timeout=1.0))
    assert caught.value.cause == "network"


async def test_leaving_a_stream_closes_its_connection(served):
    gone = asyncio.Event()

    async def handle(request):
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"data: " + json.dumps({"a": 1}).encode() + b"\n\n")
                await asyncio.sleep(0.01)
        except ConnectionError:
            gone.set()
            raise

    chunks = (await served(handle)).post("x", {})
    assert (await anext(chunks))[0] == {"a": 1}
    await chunks.aclose()
    async with asyncio.timeout(10):
        await gone.wait()


def content(text: str, **more) -> dict:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, **more}
    return {"id": "x", "choices": [choice], "usage": None}


def spelt(chunk: dict, **how) -> bytes:
    return b"data: " + json.dumps(chunk, **how).encode()


@given(st.lists(st.text(), min_size=2), st.booleans(), st.booleans())
def test_plain_chunks_are_read_as_their_text(texts, ascii, spaced):
    how = {"ensure_ascii": ascii, "separators": None if spaced else (",", ":")}
    plain = PlainChunks()
    first = content("first")
    plain.learn(spelt(first, **how), first)
    for text in texts:
        assert plain.text(spelt(content(text), **how)) == (text or None)


@pytest.mark.parametrize(
    "other",
    [
        content("a", finish_reason="stop"),
        content("a", token_ids=[1]),
        content("a", logprobs={"content": []}),
        {**content("a"), "usage": {"prompt_tokens": 1}},
        {"id": "x", "choices": [{"index": 0, "delta": {"content": "a", "role": "assistant"}}]},
        {"id": "x", "choices": [], "usage": None},
        {"id": "x", "choices": [{"index": 0, "delta": {"content": None}, "finish_reason": None}]},
    ],
)
def test_what_is_more_than_text_is_read_whole(other):
    plain = PlainChunks()
    first = content("first")
    plain.learn(spelt(first), first)
    assert plain.text(spelt(other)) is None
    fresh = PlainChunks()
    fresh.learn(spelt(other), other)
    assert fresh.text(spelt(other)) is None or is_plain(other)


def test_text_that_looks_like_the_rest_of_a_chunk_does_not_deceive():
    plain = PlainChunks()
    first = content("first")
    plain.learn(spelt(first), first)
    sly = 'a"}, "finish_reason": "stop", "x": {"content": "b'
    assert plain.text(spelt(content(sly))) == sly
    raw = spelt(first).replace(b'"first"', f'"{sly}"'.encode())
    assert plain.text(raw) is None


async def test_a_stream_gives_texts_and_what_is_more_in_order(served):
    chunks = [content("a"), content("b"), content("c", token_ids=[3]), content("d")]
    raw = b"".join(spelt(chunk) + b"\n\n" for chunk in chunks)
    assert await collect(await served(stream_of(raw))) == [chunks[0], "b", chunks[2], "d"]
