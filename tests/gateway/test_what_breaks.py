"""What third-party agents break over when it is left out, one test each.

Seen with Codex CLI, Claude Code, Gemini CLI, opencode and qwen-code against a scripted server.
"""

from __future__ import annotations

import json

import pytest

from m2gym.gateway import chat, gemini, messages, responses
from m2gym.gateway.fault import Fault
from tests.gateway.clients import (
    ChatClient,
    GeminiClient,
    MessagesClient,
    ResponsesClient,
    events,
)
from tests.gateway.sessions import Say

CALLS = (("c1", "look", '{"x": "1"}'), ("c2", "put", "{}"))
SAYS = [
    Say("text"),
    Say("text", thinking="thought"),
    Say(calls=CALLS),
    Say("text", thinking="thought", calls=CALLS),
    Say("text", calls=CALLS, whole=True),
    Say(""),
    Say("cut", finish="length"),
]


def raw_stream(make, say: Say, **fields) -> bytes:
    client = make("s")
    client.say("hi")
    call = client.dialect.parse({**client.body(), **fields}, "m", True)
    encoder = client.dialect.encoder(call, "id1", 0)
    out = encoder.begin() + b"".join(map(encoder.delta, say.deltas()))
    return out + encoder.end(say.completion())


@pytest.mark.parametrize("say", SAYS)
def test_chat_streams_end_in_one_finish_reason(say):
    raw = raw_stream(ChatClient, say)
    seen = [c["finish_reason"] for e in events(raw) for c in e["choices"] if c["finish_reason"]]
    assert seen == [say.completion().finish_reason]
    assert raw.endswith(b"data: [DONE]\n\n")
    assert len({e["id"] for e in events(raw)}) == 1


@pytest.mark.parametrize("say", SAYS)
def test_responses_finish_every_item_and_then_the_response_under_one_id(say):
    seen = list(events(raw_stream(ResponsesClient, say)))
    added = [e["item"]["id"] for e in seen if e["type"] == "response.output_item.added"]
    done = [e["item"]["id"] for e in seen if e["type"] == "response.output_item.done"]
    assert added == done
    last = seen[-1]
    assert last["type"] == (
        "response.incomplete" if say.finish == "length" else "response.completed"
    )
    assert last["response"]["id"] == seen[0]["response"]["id"]
    assert [item["id"] for item in last["response"]["output"]] == done
    assert all(
        item.get("status", "completed") == "completed" for item in last["response"]["output"]
    )


@pytest.mark.parametrize("say", SAYS)
def test_messages_name_every_event_and_close_every_block(say):
    raw = raw_stream(MessagesClient, say).decode()
    blocks = [block.splitlines() for block in raw.split("\n\n") if block]
    for event, data in blocks:
        assert event == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    kinds = [event.removeprefix("event: ") for event, _ in blocks]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")


@pytest.mark.parametrize("say", SAYS)
def test_gemini_streams_hold_nothing_but_data(say):
    raw = raw_stream(GeminiClient, say)
    assert all(line.startswith(b"data: {") for line in raw.split(b"\n\n") if line)
    finishes = [e["candidates"][0].get("finishReason") for e in events(raw)]
    assert finishes[-1] == ("MAX_TOKENS" if say.finish == "length" else "STOP")
    assert set(finishes[:-1]) <= {None}


@pytest.mark.parametrize("make", [ChatClient, ResponsesClient, MessagesClient, GeminiClient])
def test_a_stream_is_one_line_an_event_for_clients_that_split_at_any_line_end(make):
    text = "a\u0085b\u2028c\u2029d\u000be\r\nf\x1cg\ud800"
    raw = raw_stream(make, Say(text, step=50)).decode()
    for block in raw.split("\n\n"):
        lines = block.splitlines()
        assert all(line.startswith(("data: ", "event: ")) for line in lines)


@pytest.mark.parametrize("stream", [False, True])
def test_usage_is_the_sessions_own(stream):
    say = Say("x", usage=(123456, 789))
    for make, dialect in (
        (ChatClient, chat),
        (ResponsesClient, responses),
        (MessagesClient, messages),
        (GeminiClient, gemini),
    ):
        client = make("s")
        client.say("hi")
        body = {**client.body(), "stream_options": {"include_usage": True}}
        call = dialect.parse(body, "m", stream)
        if stream:
            encoder = dialect.encoder(call, "i", 0)
            text = (encoder.begin() + encoder.end(say.completion())).decode()
        else:
            text = json.dumps(dialect.answer(call, say.completion(), "i", 0))
        assert "123456" in text
        assert "789" in text


def test_messages_accept_what_claude_code_sends():
    body = {
        "model": "m",
        "max_tokens": 32000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "metadata": {"user_id": "u"},
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "tools": [
            {
                "name": "Bash",
                "input_schema": {"type": "object"},
                "defer_loading": True,
                "cache_control": {"type": "ephemeral"},
                "eager_input_streaming": True,
            }
        ],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
            {"role": "system", "content": "a reminder"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "c", "cache_control": {"type": "ephemeral"}}],
            },
        ],
    }
    call = messages.parse(body)
    assert [m["role"] for m in call.request.messages] == [
        "system", "user", "assistant", "system", "user",
    ]  # fmt: skip
    assert call.thinking_asked
    assert call.request.sampling.max_tokens == 32000


def test_gemini_accepts_tools_as_one_object_and_both_spellings():
    declared = {
        "name": "f",
        "parameters": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
    }
    camel = {
        "contents": [{"parts": [{"text": "a"}]}],
        "tools": {"functionDeclarations": [declared]},
    }
    snake = {
        "contents": [{"role": "user", "parts": [{"text": "a"}]}],
        "tools": [{"function_declarations": [declared]}],
        "system_instruction": {"parts": {"text": "s"}},
        "generation_config": {"temperature": 0},
    }
    first, second = gemini.parse(camel, "m"), gemini.parse(snake, "m")
    assert first.request.tools == second.request.tools
    assert first.request.tools[0].parameters["properties"]["a"]["type"] == "string"
    assert second.request.messages[0]["role"] == "system"
    assert second.request.sampling.temperature == 0


def test_an_error_that_ends_an_agent_is_never_typed_as_the_servers():
    """opencode tries a body typed ``server_error`` again, whatever the status."""
    ended = Fault("ended", "the budget is used up", status=400)
    assert "server_error" not in json.dumps(chat.error(ended))
    assert "server_error" not in json.dumps(responses.error(ended))


def test_codex_finds_its_error_in_a_failed_response():
    client = ResponsesClient("s")
    client.say("hi")
    encoder = responses.encoder(responses.parse(client.body()), "i", 0)
    encoder.begin()
    (failed,) = events(encoder.fail(Fault("rate_limit", "slow down")))
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "rate_limit_exceeded", "message": "slow down"}
