"""What a model's failures are to a client."""

from __future__ import annotations

import gzip

import pytest

from m2gym.core.errors import (
    BudgetError,
    ContextError,
    InfraError,
    InputError,
    ModelError,
    RateLimitError,
    SessionEndedError,
)
from m2gym.core.protocols import TokenOutput
from m2gym.gateway import Gateway, chat, exchange, gemini, messages
from m2gym.gateway.blame import fault_of
from m2gym.gateway.fault import Fault
from tests.gateway.sessions import Say, Talk

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (RateLimitError("slow", retry_after=3), "rate_limit", 429),
        (ModelError("late", cause="timeout"), "timeout", 504),
        (ModelError("busy", cause="server", status=503), "overloaded", 503),
        (ModelError("busy", cause="server", status=529), "overloaded", 503),
        (ModelError("down", cause="server", status=500), "internal", 500),
        (ModelError("gone", cause="network"), "internal", 500),
        (ModelError("half", cause="broken"), "internal", 500),
        (ModelError("our key", cause="auth", status=401), "unauthenticated", 401),
        (ModelError("bad request", cause="refused", status=400), "invalid", 400),
        (ContextError("9 of 8 tokens"), "context", 400),
        (InputError("a wrong block"), "invalid", 400),
        (BudgetError("used up", "tokens"), "ended", 0),
        (SessionEndedError("over"), "ended", 0),
        (InfraError("box"), "internal", 500),
        (OSError("disk"), "internal", 500),
        (TimeoutError(), "timeout", 504),
        (ZeroDivisionError("secret"), "internal", 500),
        (Fault("not_found", "x"), "not_found", 404),
    ],
)
def test_each_failure_has_its_kind(error, kind, status):
    fault = fault_of(error)
    assert (fault.kind, fault.status) == (kind, status)
    assert fault.message
    assert (fault.retry_after is not None) == (kind in ("rate_limit", "overloaded"))
    assert "secret" not in fault.message


def test_a_prompt_too_long_is_told_in_the_words_agents_shorten_at():
    fault = fault_of(ContextError("the prompt has 9 tokens and the context 8"))
    assert chat.error(fault)["error"]["code"] == "context_length_exceeded"
    said = messages.error(fault)["error"]
    assert said["type"] == "invalid_request_error"
    assert said["message"].startswith("prompt is too long: ")
    assert gemini.error(fault)["error"]["status"] == "INVALID_ARGUMENT"


async def test_too_many_calls_of_one_session_are_told_to_wait(gateway, http, monkeypatch):
    monkeypatch.setattr(exchange, "AT_ONCE", 0)
    opened = gateway.add(Talk([Say("x")]))
    async with http.post(opened.url + "/v1/chat/completions", json=CHAT) as got:
        assert (got.status, got.headers["Retry-After"]) == (429, "2")


async def test_compressed_bodies_are_read_and_bounded_as_they_unfold(http):
    gateway = Gateway(max_body=10_000)
    await gateway.start()
    url = gateway.add(Talk([Say("x")])).url + "/v1/chat/completions"
    for text, status in (
        (b'{"model": "m", "messages": [{"role": "user"}]}', 200),
        (b" " * 10**6, 413),
    ):
        headers = {"Content-Encoding": "gzip"}
        async with http.post(url, data=gzip.compress(text), headers=headers) as got:
            assert got.status == status
    await gateway.stop()


async def test_tokens_are_counted_by_the_models_own_tokenizer(gateway, http):
    from m2gym.models.session import RecordedSession

    class Counts:
        name = "counts"

        def count(self, request) -> int:
            return sum(len(m["content"]) for m in request.messages) + 100 * len(request.tools)

        async def stream(self, request, session):
            raise AssertionError("counting calls no model")
            yield TokenOutput

    opened = gateway.add(RecordedSession(Counts()))
    content = [{"type": "text", "text": "abc"}, {"type": "text", "text": "de"}]
    ask = {
        "model": "m",
        "messages": [{"role": "user", "content": content}],
        "tools": [{"name": "f", "input_schema": {}}],
    }
    async with http.post(opened.url + "/v1/messages/count_tokens", json=ask) as got:
        assert await got.json() == {"input_tokens": 105}
    ask = {"model": "m", "input": [{"role": "user", "content": "abcd"}]}
    async with http.post(opened.url + "/v1/responses/input_tokens", json=ask) as got:
        assert (await got.json())["input_tokens"] == 4
    ask = {"contents": [{"parts": [{"text": "abcdef"}]}]}
    async with http.post(opened.url + "/v1beta/models/m:countTokens", json=ask) as got:
        assert await got.json() == {"totalTokens": 6}
