"""The same conversation gives the model the same messages, whatever dialect it comes in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.models.scripted import ScriptedModel, Turn
from m2gym.models.session import RecordedSession
from tests.gateway.clients import CLIENTS, NAMES
from tests.gateway.sessions import Say

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
ARGUMENTS = st.dictionaries(TEXT, st.one_of(TEXT, st.integers(-99, 99), st.none()), max_size=3)


@st.composite
def turns(draw: st.DrawFn) -> Say:
    calls = draw(st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), max_size=3))
    text = draw(st.one_of(TEXT, st.just(""))) if calls else draw(TEXT)
    return Say(
        text=text,
        thinking=draw(st.one_of(TEXT, st.just(""))),
        calls=tuple((f"call_{n}", name, json.dumps(a)) for n, (name, a) in enumerate(calls)),
        step=draw(st.integers(1, 9)),
        whole=draw(st.booleans()),
    )


def plain(messages: Any) -> list[dict[str, Any]]:
    """Messages without the differences that the session's canonical form also takes away."""
    out = []
    for message in messages:
        message = json.loads(json.dumps(message))
        if isinstance(message["content"], list):
            message["content"] = "".join(block["text"] for block in message["content"])
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        out.append(message)
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(turns(), min_size=1, max_size=4), TEXT, st.data())
def test_same_messages_in_every_dialect(said, system, data):
    seen = []
    choices = [data.draw(st.booleans()) for _ in said]
    for make in CLIENTS:
        client = make(system)
        client.say("begin")
        requests = []
        for say, stream in zip(said, choices, strict=True):
            requests.append(client.ask(say, stream=stream))
            if say.calls:
                client.results([(id, name, f"{name} gave 1") for id, name, _ in say.calls])
            else:
                client.say("go on")
        requests.append(client.ask(Say("done"), stream=False))
        seen.append([(plain(r.messages), r.tools) for r in requests])
    for other in seen[1:]:
        assert other == seen[0]
    last = seen[0][-1][0]
    assert [m for m in last if m["role"] == "assistant"] == plain(say.message() for say in said)


async def record(make, system: str, said: list[Say], choices: list[bool]) -> RecordedSession:
    """The conversation in one dialect, over a real session."""
    turns = [
        Turn(
            text=say.text,
            thinking=say.thinking,
            calls=tuple({"id": i, "name": n, "arguments": a} for i, n, a in say.calls),
        )
        for say in said
    ]
    session = RecordedSession(ScriptedModel(turns), id="s")
    client = make(system)
    client.say("begin")
    for say, stream in zip(said, choices, strict=True):
        call = client.request(stream=stream)
        deltas = [delta async for delta in session.stream(call.request)]
        client.answer(call, deltas, deltas[-1].completion)
        if say.calls:
            client.results([(id, name, f"{name} gave 1") for id, name, _ in say.calls])
        else:
            client.say("go on")
    return session


@settings(max_examples=40, deadline=None)
@given(st.lists(turns(), min_size=1, max_size=4), TEXT, st.data())
def test_same_completions_from_every_dialect(said, system, data):
    choices = [data.draw(st.booleans()) for _ in said]
    records = []
    for make in CLIENTS:
        session = asyncio.run(record(make, system, said, choices))
        parents = [None, *range(len(said) - 1)]
        assert [c.parent for c in session.completions] == parents, make
        assert (session.counts.forks, session.counts.drifted, session.faults) == (0, 0, [])
        records.append([c.model_dump() for c in session.completions])
    for other in records[1:]:
        assert other == records[0]


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize("stream", [False, True])
def test_thinking_comes_back_with_the_next_request(make, stream):
    client = make("s")
    client.say("hi")
    client.ask(Say("hello", thinking="I think\nso: ö"), stream=stream)
    client.say("again")
    request = client.ask(Say("x"), stream=False)
    assert request.messages[2]["reasoning_content"] == "I think\nso: ö"
