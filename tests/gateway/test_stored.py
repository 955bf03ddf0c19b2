"""Answers gone on from by their id: the official client over a real session."""

from __future__ import annotations

import openai
import pytest

from m2gym.gateway import stored
from m2gym.models.scripted import ScriptedModel, Turn
from m2gym.models.session import RecordedSession

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
TURNS = [Turn(text="one", thinking="hm", calls=({"name": "look"},)), Turn(text="two"), "three"]


@pytest.fixture
async def ask(gateway):
    session = RecordedSession(ScriptedModel(TURNS))
    access = gateway.add(session, branch=lambda name: RecordedSession(ScriptedModel(TURNS)))
    async with openai.AsyncOpenAI(
        api_key=access.secret, base_url=f"{gateway.base_url}/v1", max_retries=0
    ) as client:
        client.session = session
        yield client


async def send(client, input, *, stream=False, **fields):
    asked = {"model": "m", "input": input, "tools": [TOOL], **fields}
    if not stream:
        return await client.responses.create(**asked)
    async with client.responses.stream(**asked) as pieces:
        return await pieces.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_by_ids_is_the_record_of_a_whole_one(ask, stream):
    first = await send(ask, "Hi", stream=stream, instructions="Be brief.")
    call = next(item for item in first.output if item.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "seen"}
    fields = {"instructions": "Be brief.", "previous_response_id": first.id}
    second = await send(ask, [result], stream=stream, **fields)
    assert second.previous_response_id == first.id
    await send(ask, "and?", instructions="Be brief.", previous_response_id=second.id)
    session = ask.session
    assert [c.parent for c in session.completions] == [None, 0, 1]
    assert session.completions[1].messages[0]["content"] == "seen"
    assert (session.counts.forks, session.counts.roots) == (0, 1)


async def test_two_answers_to_one_response_are_a_fork(ask):
    first = await send(ask, "Hi")
    for text in ("left", "right"):
        await send(ask, text, previous_response_id=first.id)
    assert [c.parent for c in ask.session.completions] == [None, 0, 0]


async def test_instructions_are_not_carried_over(ask):
    first = await send(ask, "Hi", instructions="Be brief.")
    await send(ask, "go on", previous_response_id=first.id)
    [system, *_] = ask.session.completions[0].messages
    assert system["role"] == "system"
    assert ask.session.completions[1].messages[0]["role"] == "user"


async def test_a_stored_answer_is_there_until_it_is_deleted(ask):
    first = await send(ask, "Hi")
    assert first.store
    again = await ask.responses.retrieve(first.id)
    assert again.model_dump() == first.model_dump()
    await ask.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await ask.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="not found"):
        await send(ask, "x", previous_response_id=first.id)


async def test_an_answer_that_was_not_to_be_stored_is_not(ask):
    first = await send(ask, "Hi", store=False)
    assert first.store is False
    with pytest.raises(openai.BadRequestError, match="not found"):
        await send(ask, "x", previous_response_id=first.id)


async def test_another_session_does_not_see_it(ask):
    first = await send(ask, "Hi")
    other = ask.with_options(api_key=ask.api_key + ".other")
    for call in (
        lambda: other.responses.retrieve(first.id),
        lambda: other.responses.create(model="m", input="x", previous_response_id=first.id),
    ):
        with pytest.raises(openai.APIStatusError, match="not found"):
            await call()


async def test_only_the_last_answers_are_kept(ask, monkeypatch):
    monkeypatch.setattr(stored, "KEPT", 1)
    first = await send(ask, "Hi")
    second = await send(ask, "Ho")
    with pytest.raises(openai.NotFoundError):
        await ask.responses.retrieve(first.id)
    assert (await ask.responses.retrieve(second.id)).id == second.id


async def test_an_id_of_a_wrong_type_is_refused(ask, http, gateway):
    url = f"{gateway.base_url}/v1/responses"
    body = {"model": "m", "input": "x", "previous_response_id": 5}
    async with http.post(url, json=body, headers={"x-api-key": ask.api_key}) as got:
        assert got.status == 400
        assert "previous_response_id" in (await got.json())["error"]["message"]
