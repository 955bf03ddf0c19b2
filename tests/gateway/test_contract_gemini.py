"""The official Google client against the gateway."""

from __future__ import annotations

import pytest
from google import genai
from google.genai import errors, types

from m2gym.core.errors import InfraError
from tests.gateway.sessions import Say, Talk

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALLS = (("c1", "weather", '{"city": "Bonn"}'), ("c2", "weather", '{"city": "Oslo"}'))


@pytest.fixture
def connect(gateway):
    def make(talk: Talk) -> genai.Client:
        access = gateway.add(talk)
        options = types.HttpOptions(base_url=gateway.base_url)
        return genai.Client(api_key=access.secret, http_options=options, vertexai=False)

    return make


def tools() -> list[types.Tool]:
    declared = types.FunctionDeclaration(name="weather", parameters_json_schema=WEATHER)
    return [types.Tool(function_declarations=[declared])]


def config(**fields) -> types.GenerateContentConfig:
    off = types.AutomaticFunctionCallingConfig(disable=True)
    return types.GenerateContentConfig(automatic_function_calling=off, **fields)


async def test_whole(connect):
    talk = Talk([Say("Hello.", usage=(12, 3))])
    made = await connect(talk).aio.models.generate_content(
        model="some-model",
        contents="Hi",
        config=config(
            system_instruction="Be kind.",
            temperature=0.3,
            max_output_tokens=9,
            top_k=4,
            stop_sequences=["END"],
        ),
    )
    assert made.text == "Hello."
    assert made.candidates[0].finish_reason == types.FinishReason.STOP
    counts = made.usage_metadata
    assert (counts.prompt_token_count, counts.candidates_token_count) == (12, 3)
    request = talk.requests[0]
    assert [m["role"] for m in request.messages] == ["system", "user"]
    sampling = request.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.top_k) == (0.3, 9, 4)
    assert (sampling.stop, request.model) == (("END",), "some-model")


async def test_stream_with_thinking_and_the_next_turn(connect):
    talk = Talk([Say("Look.", thinking="think first", calls=CALLS, usage=(9, 4)), Say("Done.")])
    client = connect(talk)
    thinking = types.ThinkingConfig(include_thoughts=True)
    chunks = [
        chunk
        async for chunk in await client.aio.models.generate_content_stream(
            model="m", contents="Hi", config=config(tools=tools(), thinking_config=thinking)
        )
    ]
    parts = [p for c in chunks for p in c.candidates[0].content.parts]
    assert "".join(p.text for p in parts if p.thought) == "think first"
    assert "".join(p.text for p in parts if p.text and not p.thought) == "Look."
    called = [p.function_call for p in parts if p.function_call]
    assert [(c.id, c.args["city"]) for c in called] == [("c1", "Bonn"), ("c2", "Oslo")]
    assert chunks[-1].usage_metadata.total_token_count == 13
    answers = [
        types.Part.from_function_response(name="weather", response={"result": "sun"})
        for _ in called
    ]
    history = [
        types.Content(role="user", parts=[types.Part(text="Hi")]),
        types.Content(role="model", parts=[p for p in parts if not p.thought]),
        types.Content(role="user", parts=answers),
    ]
    again = await client.aio.models.generate_content(model="m", contents=history)
    assert again.text == "Done."
    said = talk.requests[1].messages[1]
    assert said["reasoning_content"] == "think first"
    assert [c["id"] for c in said["tool_calls"]] == ["c1", "c2"]
    results = talk.requests[1].messages[2:]
    assert [(m["tool_call_id"], m["content"]) for m in results] == [("c1", "sun"), ("c2", "sun")]


async def test_images_and_forced_tool(connect):
    talk = Talk([Say("x")])
    image = types.Part.from_bytes(data=b"\x89PNG\xfb\xff", mime_type="image/png")
    forced = types.FunctionCallingConfig(mode="ANY", allowed_function_names=["weather"])
    await connect(talk).aio.models.generate_content(
        model="m",
        contents=[image, "What?"],
        config=config(tools=tools(), tool_config=types.ToolConfig(function_calling_config=forced)),
    )
    request = talk.requests[0]
    assert request.messages[0]["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBOR/v/"
    assert request.tool_choice == "weather"


async def test_googles_own_schema_becomes_json_schema(connect):
    talk = Talk([Say("x")])
    city = types.Schema(type="STRING")
    declared = types.FunctionDeclaration(
        name="weather", parameters=types.Schema(type="OBJECT", properties={"city": city})
    )
    await connect(talk).aio.models.generate_content(
        model="m",
        contents="Hi",
        config=config(tools=[types.Tool(function_declarations=[declared])]),
    )
    shown = talk.requests[0].tools[0].parameters
    assert shown["type"] == "object"
    assert shown["properties"]["city"]["type"] == "string"


async def test_count_tokens_and_models(connect):
    client = connect(Talk([Say("x")]))
    counted = await client.aio.models.count_tokens(model="m", contents="Hi there")
    assert counted.total_tokens > 0
    assert [model.name async for model in await client.aio.models.list()] == ["models/m2gym"]


async def test_errors_are_the_clients_own(connect, gateway):
    wrong = genai.Client(
        api_key="wrong", http_options=types.HttpOptions(base_url=gateway.base_url), vertexai=False
    )
    with pytest.raises(errors.ClientError) as caught:
        await wrong.aio.models.generate_content(model="m", contents="Hi")
    assert (caught.value.code, caught.value.status) == (401, "UNAUTHENTICATED")
    client = connect(Talk([Say("x")]))
    search = types.Tool(google_search=types.GoogleSearch())
    with pytest.raises(errors.ClientError, match="googleSearch"):
        await client.aio.models.generate_content(
            model="m", contents="Hi", config=config(tools=[search])
        )
    broken = connect(Talk([Say("x", error=InfraError("gone"))]))
    with pytest.raises(errors.ServerError) as failed:
        await broken.aio.models.generate_content(model="m", contents="Hi")
    assert failed.value.status == "INTERNAL"


async def test_a_stream_cut_half_way_raises_in_the_client(connect):
    cut = connect(Talk([Say("a long text", error=InfraError("gone"), cut=1, pause=0.2)]))
    with pytest.raises(errors.APIError, match="gone"):
        async for _ in await cut.aio.models.generate_content_stream(model="m", contents="Hi"):
            pass
