"""Tools that a provider runs: granted ones reach the model, what it did is on record."""

from __future__ import annotations

import json
from types import SimpleNamespace

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from m2gym.core.errors import ModelError
from m2gym.core.protocols import ModelRequest
from m2gym.core.tools import HostedTool
from m2gym.models.formats import byte_format
from m2gym.models.scripted import Hosted, ScriptedModel, Turn
from m2gym.models.scripted_engine import ScriptedEngine
from m2gym.models.session import RecordedSession
from m2gym.models.token_model import TokenModel
from tests.gateway.clients import CLIENTS
from tests.gateway.sessions import Say, Talk
from tests.gateway.test_record import post

PAGE = {"type": "web_search_result", "url": "https://example.org/a", "title": "A"}
SEARCH = Hosted(name="web_search", input={"query": "what is a"}, output=[PAGE])
CODE = Hosted(name="code_execution", input={"code": "print(1)"}, output="1")
DECLARED = {
    "chat": {"web_search_options": {"search_context_size": "low"}},
    "responses": {"tools": [{"type": "web_search"}]},
    "messages": {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
    "gemini": {"tools": [{"googleSearch": {}}]},
}
NAMES = {"gemini": "googleSearch"}


def with_search(make):
    """A client that lists its provider's search beside its own tools."""
    client = make("s")
    plain = client.body

    def body():
        given, more = plain(), DECLARED[client.dialect.name]
        return {**given, **more, "tools": [*given["tools"], *more.get("tools", ())]}

    client.body = body
    return client


@pytest.mark.parametrize("make", CLIENTS)
async def test_only_granted_tools_reach_the_model_as_they_were_declared(gateway, http, make):
    name = make.dialect.name
    tool = NAMES.get(name, "web_search")
    talk, other = Talk([Say("x")]), Talk([Say("x")])
    for session, granted in ((talk, [tool]), (other, ["something else"])):
        client = with_search(make)
        client.say("search")
        assert await post(http, gateway.add(session, granted=granted), client, stream=False) == 200
    [hosted] = talk.requests[0].hosted
    more = DECLARED[name]
    assert hosted.declared == (more.get("web_search_options") or more["tools"][0])
    assert (hosted.name, hosted.dialect) == (tool, name)
    assert other.requests[0].hosted == ()
    assert len(other.requests[0].tools) == 2


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_provider_did_is_on_record_and_put_back(gateway, http, make, stream):
    seen = []

    def answer(request: ModelRequest) -> Turn:
        seen.append(request.messages)
        return Turn(text="found", hosted=(SEARCH, CODE)) if len(seen) == 1 else Turn(text="ok")

    session = RecordedSession(ScriptedModel(answer))
    access = gateway.add(session, granted=["web_search", "googleSearch"])
    client = with_search(make)
    client.say("search")
    assert await post(http, access, client, stream=stream) == 200
    client.say("and?")
    assert await post(http, access, client, stream=stream) == 200
    assert [c.parent for c in session.completions] == [None, 0]
    first = session.completions[0]
    assert first.message["hosted"] == [
        {**SEARCH.model_dump(), "id": "hosted_0_0"},
        {**CODE.model_dump(), "id": "hosted_0_1"},
    ]
    assert first.tools[-1]["type"] == "hosted"
    again = next(m for m in seen[1] if m["role"] == "assistant")
    assert again["hosted"] == first.message["hosted"]


@pytest.fixture
def searched(gateway):
    session = RecordedSession(ScriptedModel([Turn(text="found", hosted=(SEARCH, CODE)), "ok"]))
    access = gateway.add(session, granted=["web_search", "googleSearch"])
    return SimpleNamespace(key=access.secret, url=gateway.base_url, session=session)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_client_sees_it_in_both_dialects(searched, stream):
    client = openai.AsyncOpenAI(api_key=searched.key, base_url=f"{searched.url}/v1")
    ask = {"model": "m", "input": "go", "tools": [{"type": "web_search"}]}
    if stream:
        async with client.responses.stream(**ask) as pieces:
            made = await pieces.get_final_response()
    else:
        made = await client.responses.create(**ask)
    kinds = {item.type: item for item in made.output}
    assert kinds["web_search_call"].action.query == "what is a"
    assert kinds["web_search_call"].action.sources[0].url == PAGE["url"]
    assert kinds["code_interpreter_call"].code == "print(1)"
    assert kinds["code_interpreter_call"].outputs[0].logs == "1"
    assert made.output_text == "found"
    again = [{"role": "user", "content": "go"}]
    again += [item.model_dump(exclude_none=True) for item in made.output]
    again.append({"role": "user", "content": "and?"})
    await client.responses.create(**{**ask, "input": again})
    assert [c.parent for c in searched.session.completions] == [None, 0]


async def test_the_openai_client_sees_citations_in_chat(searched):
    client = openai.AsyncOpenAI(api_key=searched.key, base_url=f"{searched.url}/v1")
    made = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "go"}], web_search_options={}
    )
    [cited] = made.choices[0].message.annotations
    assert cited.url_citation.url == PAGE["url"]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_anthropic_client_sees_its_blocks(searched, stream):
    client = anthropic.AsyncAnthropic(api_key=searched.key, base_url=searched.url)
    history = [{"role": "user", "content": "go"}]
    ask = {"model": "m", "max_tokens": 9, "tools": DECLARED["messages"]["tools"]}
    if stream:
        async with client.messages.stream(messages=history, **ask) as pieces:
            made = await pieces.get_final_message()
    else:
        made = await client.messages.create(messages=history, **ask)
    by_type = {block.type: block for block in made.content}
    assert by_type["server_tool_use"].id.startswith("srvtoolu_")
    assert by_type["web_search_tool_result"].content[0].url == PAGE["url"]
    uses = [block for block in made.content if block.type == "server_tool_use"]
    assert [use.input for use in uses] == [SEARCH.input, CODE.input]
    history += [
        {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in made.content]},
        {"role": "user", "content": "and?"},
    ]
    await client.messages.create(messages=history, **ask)
    assert [c.parent for c in searched.session.completions] == [None, 0]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_google_client_sees_grounding_and_code(searched, stream):
    client = genai.Client(
        api_key=searched.key,
        vertexai=False,
        http_options=types.HttpOptions(base_url=searched.url),
    )
    tools = [types.Tool(google_search=types.GoogleSearch())]
    ask = {"model": "m", "contents": "go", "config": types.GenerateContentConfig(tools=tools)}
    if stream:
        chunks = [c async for c in await client.aio.models.generate_content_stream(**ask)]
    else:
        chunks = [await client.aio.models.generate_content(**ask)]
    found = chunks[-1].candidates[0].grounding_metadata
    assert found.web_search_queries == ["what is a"]
    assert found.grounding_chunks[0].web.uri == PAGE["url"]
    parts = [p for c in chunks for p in c.candidates[0].content.parts]
    assert [p.executable_code.code for p in parts if p.executable_code] == ["print(1)"]
    assert [p.code_execution_result.output for p in parts if p.code_execution_result] == ["1"]


async def test_a_model_of_ones_own_says_that_it_runs_none():
    form = byte_format()
    session = RecordedSession(TokenModel(ScriptedEngine(form, ["x"]), form))
    hosted = (HostedTool(name="web_search", dialect="responses"),)
    ask = ModelRequest([{"role": "user", "content": "go"}], hosted=hosted)
    with pytest.raises(ModelError, match="runs no provider-hosted tools"):
        await session.complete(ask)
    assert [fault.cause for fault in session.faults] == ["refused"]
    assert session.completions == []


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize(
    "odd", [{"type": "server_tool_use"}, {"type": "x_tool_result"}, {"executableCode": 1}]
)
def test_odd_blocks_are_refused_or_read(make, odd):
    client = make("s")
    client.say("a")
    content = {"role": "assistant", "content": [odd]}
    if make.dialect.name == "gemini":
        content = {"role": "model", "parts": [odd]}
    client.history.append(content)
    with pytest.raises(Exception, match=r"expected|is passed"):
        client.dialect.parse(json.loads(json.dumps(client.body())), "m")
