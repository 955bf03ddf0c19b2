"""The official OpenAI client against the gateway, in both of its dialects."""

from __future__ import annotations

import json

import openai
import pytest

from m2gym.core.errors import InfraError
from tests.gateway.sessions import Say, Talk

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
TOOL = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
CALLS = (("c1", "weather", '{"city": "Bonn"}'), ("c2", "weather", '{"city": "Oslo"}'))
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def connect(gateway):
    clients = []

    def make(talk: Talk, **settings) -> openai.AsyncOpenAI:
        access = gateway.add(talk)
        settings.setdefault("max_retries", 0)
        client = openai.AsyncOpenAI(
            api_key=access.secret, base_url=f"{gateway.base_url}/v1", **settings
        )
        clients.append(client)
        return client

    return make


async def test_chat_whole(connect):
    talk = Talk([Say("Hello.", thinking="hm", usage=(12, 3))])
    ask = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    made = await connect(talk).chat.completions.create(
        model="any/name", messages=ask, temperature=0.5, max_completion_tokens=9, stop=["x"]
    )
    assert made.choices[0].message.content == "Hello."
    assert made.choices[0].message.reasoning_content == "hm"
    assert made.choices[0].finish_reason == "stop"
    assert (made.model, made.usage.prompt_tokens, made.usage.completion_tokens) == (
        "any/name",
        12,
        3,
    )
    request = talk.requests[0]
    assert request.messages[0] == {"role": "system", "content": "Be kind."}
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.5, 9)
    assert (request.sampling.stop, request.model) == (("x",), "any/name")


async def test_chat_stream_with_parallel_calls(connect):
    talk = Talk([Say("Let me look.", calls=CALLS, usage=(5, 6))])
    stream = await connect(talk).chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Hi"}],
        tools=[CHAT_TOOL],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Let me look."
    pieces = [p for c in chunks if c.choices for p in c.choices[0].delta.tool_calls or ()]
    for index, (id, name, arguments) in enumerate(CALLS):
        mine = [p for p in pieces if p.index == index]
        assert (mine[0].id, mine[0].function.name) == (id, name)
        assert "".join(p.function.arguments for p in mine) == arguments
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage.total_tokens == 11
    assert talk.requests[0].tools[0].parameters == WEATHER


async def test_chat_stream_helper_accumulates(connect):
    client = connect(Talk([Say("one two three", calls=CALLS[:1])]))
    async with client.chat.completions.stream(
        model="m", messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "one two three"
    assert final.choices[0].message.tool_calls[0].function.arguments == CALLS[0][2]


async def test_chat_images_and_tool_results_reach_the_model(connect):
    talk = Talk([Say("seen")])
    image = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    await connect(talk).chat.completions.create(
        model="m",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "What?"}, image]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
    )
    user, said, result = talk.requests[0].messages
    assert user["content"][1] == {"type": "image_url", "image_url": {"url": PIXEL}}
    assert said["tool_calls"][0]["function"]["name"] == "weather"
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "rain"}


async def test_chat_custom_tool(connect):
    patch = '*** Begin Patch\n"x"\n'
    talk = Talk(
        [Say(calls=(("c1", "apply_patch", json.dumps({"input": patch}, separators=(",", ":"))),))]
    )
    client = connect(talk)
    tool = {"type": "custom", "custom": {"name": "apply_patch", "description": "Patch."}}
    ask = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    made = await client.chat.completions.create(**ask)
    called = made.choices[0].message.tool_calls[0]
    assert (called.type, called.custom.name, called.custom.input) == (
        "custom",
        "apply_patch",
        patch,
    )
    assert talk.requests[0].tools[0].parameters["required"] == ["input"]
    history = [*ask["messages"], made.choices[0].message.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": "c1", "content": "done"})
    await client.chat.completions.create(**{**ask, "messages": history})
    assert talk.requests[1].messages[1]["tool_calls"] == talk.completions[0].message["tool_calls"]


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_chat_says_why_it_stopped(connect, finish):
    made = await connect(Talk([Say("x", finish=finish)])).chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}]
    )
    assert made.choices[0].finish_reason == finish


async def test_responses_whole(connect):
    talk = Talk([Say("Hello.", thinking="hm", calls=CALLS, usage=(12, 3))])
    made = await connect(talk).responses.create(
        model="m", instructions="Be kind.", input="Hi", tools=[TOOL], max_output_tokens=50
    )
    kinds = [item.type for item in made.output]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert made.output_text == "Hello."
    assert made.output[0].summary[0].text == "hm"
    assert [(c.call_id, c.name, c.arguments) for c in made.output[2:]] == list(CALLS)
    assert (made.status, made.usage.input_tokens, made.usage.output_tokens) == ("completed", 12, 3)
    assert [m["role"] for m in talk.requests[0].messages] == ["system", "user"]


async def test_responses_stream_and_next_turn(connect):
    talk = Talk([Say("Look.", thinking="think first", calls=CALLS), Say("Done.")])
    client = connect(talk)
    history = [{"role": "user", "content": "Hi"}]
    async with client.responses.stream(
        model="m", input=history, tools=[TOOL], store=False
    ) as stream:
        kinds = [event.type async for event in stream]
        made = await stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds.count("response.output_item.done") == 4
    assert kinds[-1] == "response.completed"
    assert made.output_text == "Look."
    for item in made.output:
        kept = item.model_dump(exclude_none=True, exclude={"parsed_arguments", "status"})
        if kept["type"] == "reasoning":
            kept["summary"] = []
        history.append(kept)
    for id, _, _ in CALLS:
        history.append({"type": "function_call_output", "call_id": id, "output": "sun"})
    again = await client.responses.create(model="m", input=history, tools=[TOOL])
    assert again.output_text == "Done."
    said = talk.requests[1].messages[1]
    assert said["reasoning_content"] == "think first"
    assert said["tool_calls"] == talk.completions[0].message["tool_calls"]


async def test_responses_custom_and_namespaced_tools(connect):
    calls = (("c1", "apply_patch", '{"input":"free text"}'), ("c2", "files__read", '{"p":1}'))
    talk = Talk([Say(calls=calls), Say("ok")])
    client = connect(talk)
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    read = {"type": "function", "name": "read", "description": "", "parameters": {"type": "object"}}
    tools = [
        {"type": "custom", "name": "apply_patch", "description": "Patch.", "format": grammar},
        {"type": "namespace", "name": "files", "description": "Files.", "tools": [read]},
        {"type": "web_search"},
    ]
    async with client.responses.stream(model="m", input="Hi", tools=tools) as stream:
        pieces = [event async for event in stream]
        made = await stream.get_final_response()
    patch, called = made.output
    assert (patch.type, patch.name, patch.input) == ("custom_tool_call", "apply_patch", "free text")
    assert (called.namespace, called.name, called.arguments) == ("files", "read", '{"p":1}')
    assert "response.custom_tool_call_input.done" in {p.type for p in pieces}
    shown = {tool.name: tool.description for tool in talk.requests[0].tools}
    assert set(shown) == {"apply_patch", "files__read"}
    assert "start: /.+/" in shown["apply_patch"]
    history = [{"role": "user", "content": "Hi"}]
    history += [item.model_dump(exclude_none=True) for item in made.output]
    history += [
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "a"},
        {"type": "function_call_output", "call_id": "c2", "output": "b"},
    ]
    await client.responses.create(model="m", input=history, tools=tools)
    assert talk.requests[1].messages[1]["tool_calls"] == [
        {**c, "function": {**c["function"]}} for c in talk.completions[0].message["tool_calls"]
    ]


async def test_responses_cut_at_the_limit_is_incomplete(connect):
    made = await connect(Talk([Say("x", finish="length")])).responses.create(model="m", input="Hi")
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_models(connect, gateway):
    client = connect(Talk([Say("x")]))
    listed = [model.id async for model in client.models.list()]
    assert listed == ["m2gym"]
    assert (await client.models.retrieve("what/ever")).id == "what/ever"


async def test_errors_are_the_clients_own(connect, gateway):
    ask = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    client = connect(Talk([Say("x")]))
    with pytest.raises(openai.AuthenticationError, match="no session has this secret"):
        await client.with_options(api_key="sk-wrong").chat.completions.create(**ask)
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].role"):
        await client.chat.completions.create(model="m", messages=[{"role": "elf"}])
    with pytest.raises(openai.BadRequestError, match="resp_1' not found") as raised:
        await client.responses.create(model="m", input="x", previous_response_id="resp_1")
    assert raised.value.code == "previous_response_not_found"
    assert raised.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="m", input="x")
    broken = connect(Talk([Say("x", error=InfraError("the engine is gone"))]))
    with pytest.raises(openai.InternalServerError, match="the engine is gone"):
        await broken.chat.completions.create(**ask)


async def test_a_stream_cut_half_way_raises_in_the_client(connect):
    cut = connect(
        Talk([Say("a long text that is cut", error=InfraError("gone"), cut=2, pause=0.2)])
    )
    ask = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    seen = []
    with pytest.raises(openai.APIError, match="gone"):
        seen += [c.choices[0].delta.content async for c in await cut.chat.completions.create(**ask)]
    events = await cut.responses.create(model="m", input="Hi", stream=True)
    last = [event async for event in events][-1]
    assert (last.type, last.response.error.message) == ("response.failed", "gone")
