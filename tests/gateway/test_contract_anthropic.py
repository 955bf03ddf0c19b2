"""The official Anthropic client against the gateway."""

from __future__ import annotations

import anthropic
import pytest

from m2gym.core.errors import InfraError
from tests.gateway.sessions import Say, Talk

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "Weather.", "input_schema": WEATHER}
CALLS = (("c1", "weather", '{"city": "Bonn"}'), ("c2", "weather", '{"city": "Oslo"}'))
ASK = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def connect(gateway):
    def make(talk: Talk, **settings) -> anthropic.AsyncAnthropic:
        access = gateway.add(talk)
        settings.setdefault("max_retries", 0)
        return anthropic.AsyncAnthropic(
            api_key=access.secret, base_url=gateway.base_url, **settings
        )

    return make


async def test_whole(connect):
    talk = Talk([Say("Hello.", calls=CALLS, usage=(12, 3))])
    made = await connect(talk).messages.create(
        **ASK,
        system=[{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        tools=[TOOL],
        tool_choice={"type": "any"},
        stop_sequences=["END"],
        extra_body={"temperature": 0.2, "top_k": 5},
    )
    assert [block.type for block in made.content] == ["text", "tool_use", "tool_use"]
    assert made.content[0].text == "Hello."
    assert [(b.id, b.name, b.input["city"]) for b in made.content[1:]] == [
        ("c1", "weather", "Bonn"),
        ("c2", "weather", "Oslo"),
    ]
    assert (made.stop_reason, made.usage.input_tokens, made.usage.output_tokens) == (
        "tool_use",
        12,
        3,
    )
    request = talk.requests[0]
    assert request.messages[0]["role"] == "system"
    assert request.tool_choice == "required"
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.stop) == (0.2, 5, ("END",))
    assert sampling.max_tokens == 64


async def test_stream_with_thinking_and_the_next_turn(connect):
    talk = Talk([Say("Look.", thinking="think first", calls=CALLS, usage=(9, 4)), Say("Done.")])
    client = connect(talk)
    asked = {**ASK, "thinking": {"type": "enabled", "budget_tokens": 1024}, "tools": [TOOL]}
    async with client.messages.stream(**asked) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        made = await stream.get_final_message()
    assert text == "Look."
    assert [b.type for b in made.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert made.content[0].thinking == "think first"
    assert made.content[0].signature
    assert made.content[3].input == {"city": "Oslo"}
    assert (made.usage.input_tokens, made.usage.output_tokens) == (9, 4)
    results = [{"type": "tool_result", "tool_use_id": id, "content": "sun"} for id, _, _ in CALLS]
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": [b.model_dump() for b in made.content]},
        {"role": "user", "content": [*results, {"type": "text", "text": "and?"}]},
    ]
    again = await client.messages.create(**{**asked, "messages": history})
    assert again.content[0].text == "Done."
    roles = [m["role"] for m in talk.requests[1].messages]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    assert talk.requests[1].messages[1]["reasoning_content"] == "think first"


async def test_thinking_is_shown_only_where_asked(connect):
    made = await connect(Talk([Say("x", thinking="secret")])).messages.create(**ASK)
    assert [block.type for block in made.content] == ["text"]
    async with connect(Talk([Say("x", thinking="secret")])).messages.stream(**ASK) as stream:
        made = await stream.get_final_message()
    assert [block.type for block in made.content] == ["text"]


async def test_images_and_system_messages_within(connect):
    talk = Talk([Say("x")])
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    linked = {"type": "url", "url": "https://example.org/a.png"}
    content = [
        {"type": "image", "source": source},
        {"type": "image", "source": linked},
        {"type": "text", "text": "What?"},
    ]
    ask = [{"role": "user", "content": content}, {"role": "system", "content": "note"}]
    await connect(talk).messages.create(**{**ASK, "messages": ask})
    seen, note = talk.requests[0].messages
    assert seen["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="
    assert seen["content"][1]["image_url"]["url"] == "https://example.org/a.png"
    assert note == {"role": "system", "content": "note"}


async def test_fields_that_steer_the_providers_own_service_are_accepted(connect):
    extra = {
        "context_management": {"edits": []},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": "u"},
    }
    tool = {**TOOL, "defer_loading": True, "cache_control": {"type": "ephemeral"}}
    made = await connect(Talk([Say("x")])).messages.create(
        **ASK, tools=[tool], thinking={"type": "adaptive"}, extra_body=extra
    )
    assert made.content[0].text == "x"


async def test_count_tokens(connect):
    client = connect(Talk([Say("x")]))
    few = await client.messages.count_tokens(model="m", messages=ASK["messages"])
    more = await client.messages.count_tokens(
        model="m", messages=[{"role": "user", "content": "words " * 100}]
    )
    assert 0 < few.input_tokens < more.input_tokens


async def test_models(connect):
    listed = [model.id async for model in connect(Talk([Say("x")])).models.list()]
    assert listed == ["m2gym"]


async def test_bearer_and_prefix_open_the_session_too(gateway):
    access = gateway.add(Talk([Say("x")]))
    by_token = anthropic.AsyncAnthropic(auth_token=access.secret, base_url=gateway.base_url)
    assert (await by_token.messages.create(**ASK)).content[0].text == "x"
    by_prefix = anthropic.AsyncAnthropic(api_key="any", base_url=access.url)
    assert (await by_prefix.messages.create(**ASK)).content[0].text == "x"


async def test_errors_are_the_clients_own(connect):
    client = connect(Talk([Say("x")]))
    with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
        await client.with_options(api_key="wrong").messages.create(**ASK)
    with pytest.raises(anthropic.BadRequestError, match="invalid_request_error"):
        await client.messages.create(**{**ASK, "messages": [{"role": "user", "content": 5}]})
    hosted = [{"type": "web_search_20250305", "name": "web_search"}]
    with pytest.raises(anthropic.BadRequestError, match="not granted here: web_search"):
        await client.messages.create(**ASK, tools=hosted)
    broken = connect(Talk([Say("x", error=InfraError("gone"))]))
    with pytest.raises(anthropic.InternalServerError, match="api_error"):
        await broken.messages.create(**ASK)


async def test_a_stream_cut_half_way_raises_in_the_client(connect):
    cut = connect(Talk([Say("a long text", error=InfraError("gone"), cut=1, pause=0.2)]))
    with pytest.raises(anthropic.APIStatusError, match="gone"):
        async with cut.messages.stream(**ASK) as stream:
            await stream.get_final_message()


async def test_a_truncated_call_comes_as_it_was_said(connect):
    talk = Talk([Say(calls=(("c1", "weather", '{"city": "Bo'),), finish="length"), Say("x")])
    client = connect(talk)
    made = await client.messages.create(**ASK, tools=[TOOL])
    assert made.stop_reason == "max_tokens"
    assert made.content[0].input == {"malformed_arguments": '{"city": "Bo'}
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": [b.model_dump() for b in made.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1"}]},
    ]
    await client.messages.create(**{**ASK, "messages": history})
    assert talk.requests[1].messages[1]["tool_calls"] == talk.completions[0].message["tool_calls"]
