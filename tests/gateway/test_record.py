"""A real session behind the gateway: one conversation gives one record, whatever the dialect."""

from __future__ import annotations

import json

import pytest

from m2gym.core.protocols import Delta
from m2gym.core.trajectory import Completion
from m2gym.models.budget import Budget
from m2gym.models.scripted import ScriptedModel, Turn
from m2gym.models.session import RecordedSession
from tests.gateway.clients import CLIENTS, ChatClient, MessagesClient, events

TURNS = [
    Turn(
        thinking="I look first.",
        text="Looking.",
        calls=(
            {"name": "look", "arguments": {"x": "a b"}},
            {"name": "put", "arguments": '{"x":   "ü"}'},
        ),
    ),
    Turn(calls=({"name": "look", "arguments": {}},), fault={"status": 503}),
    Turn(text="Done.", thinking="That was it."),
]
PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/m:{}",
}


async def post(http, access, client, *, stream: bool):
    """One request of a small client; its answer goes into the client's history."""
    path = PATHS[client.dialect.name]
    body = client.body()
    if client.dialect.name == "gemini":
        path = path.format("streamGenerateContent?alt=sse" if stream else "generateContent")
    else:
        body["stream"] = stream
    async with http.post(access.url + path, json=body) as got:
        raw = await got.read()
        if got.status == 200 and stream:
            client.take_stream(list(events(raw)))
        elif got.status == 200:
            client.take(json.loads(raw))
        return got.status


async def converse(http, gateway, make, *, stream: bool) -> RecordedSession:
    session = RecordedSession(ScriptedModel(TURNS), id="s")
    access = gateway.add(session)
    client = make("Be brief.")
    client.say("Begin.")
    assert await post(http, access, client, stream=stream) == 200
    client.results([("call_0_0", "look", "seen"), ("call_0_1", "put", "put there")])
    assert await post(http, access, client, stream=stream) == 503
    assert await post(http, access, client, stream=stream) == 200
    client.results([("call_1_0", "look", "seen again")])
    assert await post(http, access, client, stream=stream) == 200
    client.say("Thanks.")
    return session


async def test_every_dialect_becomes_the_same_record(http, gateway):
    records = []
    for make in CLIENTS:
        for stream in (False, True):
            session = await converse(http, gateway, make, stream=stream)
            assert [c.parent for c in session.completions] == [None, 0, 1], make
            assert (session.counts.forks, session.counts.roots) == (0, 1)
            assert [f.cause for f in session.faults] == ["server"]
            assert [line.main for line in session.lines()] == [True]
            records.append([c.model_dump() for c in session.completions])
    assert all(record == records[0] for record in records[1:])
    first = records[0][0]
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert first["message"]["tool_calls"][1]["function"]["arguments"] == '{"x":   "ü"}'
    assert [m["content"] for m in records[0][1]["messages"]] == ["seen", "put there"]


async def test_moving_cache_marks_and_block_forms_do_not_fork(http, gateway):
    session = RecordedSession(ScriptedModel(["one", "two", "three"]))
    access = gateway.add(session)
    client = MessagesClient("s")
    client.say("a")
    await post(http, access, client, stream=True)
    client.history[0] = {"role": "user", "content": "a"}
    client.say("b")
    await post(http, access, client, stream=False)
    client.history[1]["content"] = "one"
    client.say("c")
    await post(http, access, client, stream=False)
    assert [c.parent for c in session.completions] == [None, 0, 1]
    assert session.counts.forks == 0


async def test_a_title_call_is_told_from_the_main_line(http, gateway):
    model = ScriptedModel(TURNS[:1], asides=[Turn(when="title", text="A title")])
    session = RecordedSession(model)
    access = gateway.add(session)
    ask = {"model": "small", "messages": [{"role": "user", "content": "Write a title."}]}
    async with http.post(access.url + PATHS["chat"], json=ask) as got:
        assert (await got.json())["choices"][0]["message"]["content"] == "A title"
    client = ChatClient("Be brief.")
    client.say("Begin.")
    await post(http, access, client, stream=True)
    assert [(line.completions, line.main) for line in session.lines()] == [
        ((1,), True),
        ((0,), False),
    ]


@pytest.mark.parametrize(
    ("agent", "status"), [("codex_exec/1", 400), ("claude-cli/2", 403), ("litellm/1", 401)]
)
async def test_a_used_up_budget_ends_the_agent_and_is_recorded_as_such(
    http, gateway, agent, status
):
    session = RecordedSession(ScriptedModel(["a long answer", "x"]), budget=Budget(tokens=5))
    access = gateway.add(session)
    client = ChatClient("s")
    client.say("a")
    assert await post(http, access, client, stream=False) == 200
    client.say("b")
    body = {**client.body(), "stream": True}
    for _ in range(2):
        async with http.post(
            access.url + PATHS["chat"], json=body, headers={"User-Agent": agent}
        ) as got:
            assert got.status == status
            assert "budget" in (await got.json())["error"]["message"]
    assert session.stop == "tokens"
    assert {fault.cause for fault in session.faults} == {"tokens"}


@pytest.mark.parametrize("path", [PATHS["chat"], PATHS["messages"], PATHS["responses"]])
async def test_an_upstreams_429_passes_with_its_wait(http, gateway, path):
    turn = Turn(text="x", fault={"status": 429, "retry_after": 7})
    session = RecordedSession(ScriptedModel([turn]))
    access = gateway.add(session)
    message = [{"role": "user", "content": "a"}]
    ask = {"model": "m", "messages": message, "input": message, "max_tokens": 5}
    async with http.post(access.url + path, json=ask) as got:
        assert (got.status, got.headers["Retry-After"]) == (429, "7")
    async with http.post(access.url + path, json=ask) as got:
        assert got.status == 200
    assert [f.cause for f in session.faults] == ["rate_limit"]
    assert len(session.completions) == 1


async def test_a_key_in_what_an_agent_sends_is_not_recorded(http, gateway):
    session = RecordedSession(ScriptedModel(["ok"]))
    access = gateway.add(session)
    client = ChatClient("s")
    client.say(f"my key is {access.secret}")
    await post(http, access, client, stream=False)
    assert access.secret not in session.completions[0].model_dump_json()


@pytest.mark.parametrize("form", ["custom", "function"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_free_form_call_goes_out_and_comes_back_without_a_fork(http, gateway, form, stream):
    patch = '*** Begin Patch\n+ "ü"\n*** End Patch\n'
    given = {"input": patch} if form == "custom" else {"arguments": {"input": patch}}
    turns = [Turn(calls=({"name": "apply_patch", **given},)), Turn(text="Done.")]
    session = RecordedSession(ScriptedModel(turns))
    url = gateway.add(session).url + "/v1/responses"
    tools = [{"type": "custom", "name": "apply_patch"}]
    history = [{"role": "user", "content": "Patch it."}]
    ask = {"model": "m", "input": history, "tools": tools, "stream": stream}
    async with http.post(url, json=ask) as got:
        raw = await got.read()
    made = list(events(raw))[-1]["response"] if stream else json.loads(raw)
    (called,) = made["output"]
    assert (called["type"], called["input"]) == ("custom_tool_call", patch)
    result = {"type": "custom_tool_call_output", "call_id": called["call_id"], "output": "ok"}
    history += [called, result]
    async with http.post(url, json={**ask, "stream": False}) as got:
        assert got.status == 200
    assert [c.parent for c in session.completions] == [None, 0]
    assert session.counts.forks == 0


SIGNED = {"type": "thinking", "thinking": "hm", "signature": "provider-signed"}


class Opaque:
    """A provider's model: it wants its own signed items back with the next request."""

    name = "opaque"

    def __init__(self):
        self.seen = []

    async def stream(self, request, session):
        self.seen.append(request.messages)
        message = {"role": "assistant", "content": "said", "reasoning_content": "hm"}
        completion = Completion(message={**message, "reasoning_opaque": [SIGNED]})
        yield Delta(thinking="hm")
        yield Delta(text="said")
        yield Delta(completion=completion)


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("drops", [False, True])
async def test_a_providers_signed_thinking_goes_back_to_it(http, gateway, make, stream, drops):
    model = Opaque()
    session = RecordedSession(model)
    access = gateway.add(session)
    client = make("s")
    client.say("a")
    assert await post(http, access, client, stream=stream) == 200
    if drops:
        drop_thinking(client)
    client.say("b")
    assert await post(http, access, client, stream=stream) == 200
    assert model.seen[1][2]["reasoning_opaque"] == [SIGNED]
    assert [c.parent for c in session.completions] == [None, 0]


def drop_thinking(client) -> None:
    """What a client does that keeps no thinking at all."""
    for message in client.history:
        message.pop("reasoning_content", None)
        for key in ("content", "parts"):
            if isinstance(message.get(key), list):
                message[key] = [b for b in message[key] if b.get("type") != "thinking"]
                for block in message[key]:
                    block.pop("thoughtSignature", None)
    client.history = [item for item in client.history if item.get("type") != "reasoning"]
