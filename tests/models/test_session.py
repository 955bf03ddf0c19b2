"""Sessions: the tree, what extends what, budgets, faults, redaction."""

import asyncio

import pytest

from m2gym.core.errors import BudgetError, InputError, ModelError, RateLimitError, SessionEndedError
from m2gym.core.protocols import ModelRequest, Sampling
from m2gym.core.tools import ToolSchema
from m2gym.models.budget import Budget
from m2gym.models.scripted import Call, Fault, ScriptedModel, Turn
from m2gym.models.session import RecordedSession
from m2gym.models.tokens import full_messages

SYSTEM = {"role": "system", "content": "Be good."}
ASK = {"role": "user", "content": "List the files."}
BASH = ToolSchema(name="bash")
LS = Turn(thinking="I look.", calls=(Call(name="bash", arguments={"command": "ls"}),))
THREE = [LS, Turn(calls=(Call(name="bash"), Call(name="bash", arguments={"a": 1}))), Turn(text="x")]


def tool(id, content):
    return {"role": "tool", "tool_call_id": id, "content": content}


async def say(session, *messages, tools=(BASH,), **kw):
    return await session.complete(ModelRequest(list(messages), tools, **kw))


async def test_a_conversation_extends():
    session = RecordedSession(ScriptedModel(THREE))
    first = await say(session, SYSTEM, ASK)
    results = [first.message, tool("call_0_0", "a.py")]
    second = await say(session, SYSTEM, ASK, *results)
    more = [second.message, tool("call_1_1", "2"), tool("call_1_0", "1")]
    third = await say(session, SYSTEM, ASK, *results, *more)
    assert [c.parent for c in session.completions] == [None, 0, 1]
    assert session.completions[0].messages == (SYSTEM, ASK)
    assert session.completions[0].tools == (BASH.openai(),)
    assert session.completions[1].messages == (tool("call_0_0", "a.py"),)
    assert session.completions[1].tools == ()
    asked = [SYSTEM, ASK, *results, *more]
    assert full_messages(session.completions, 2) == asked
    assert third.message["content"] == "x"
    assert (session.counts.extended, session.counts.roots, session.counts.forks) == (2, 1, 0)
    assert session.usage.completion_tokens == sum(
        c.usage.completion_tokens for c in session.completions
    )


async def test_a_client_that_drops_ids_and_thinking_and_marks_its_cache_still_extends():
    session = RecordedSession(ScriptedModel(THREE))
    await say(session, SYSTEM, ASK)
    dropped = {
        "role": "assistant",
        "content": [{"type": "text", "text": ""}],
        "tool_calls": [
            {"id": "other", "function": {"name": "bash", "arguments": '{ "command":"ls" }'}}
        ],
    }
    marked = [{"type": "text", "text": "List the files.", "cache_control": {"type": "ephemeral"}}]
    await say(
        session,
        {"role": "developer", "content": "Be good."},
        {"role": "user", "content": marked},
        dropped,
        tool("other", "a.py"),
    )
    assert session.completions[1].parent == 0
    assert session.completions[1].messages == (tool("call_0_0", "a.py"),)
    assert full_messages(session.completions, 1)[2]["reasoning_content"] == "I look."


@pytest.mark.parametrize(
    ("arguments", "parent"),
    [
        ('{"all": false, "command": "ls"}', 0),
        ('{"all": false, "command": "ls -a"}', None),
        ("{}", None),
        ('{"command": "ls"', None),
    ],
)
async def test_a_client_that_adds_default_arguments_still_extends(arguments, parent):
    session = RecordedSession(ScriptedModel(lambda request: LS))
    first = await say(session, SYSTEM, ASK)
    [call] = first.message["tool_calls"]
    echoed = {**call, "function": {"name": "bash", "arguments": arguments}}
    said = {"role": "assistant", "content": "", "tool_calls": [echoed]}
    await say(session, SYSTEM, ASK, said, tool(call["id"], "a.py"))
    assert session.completions[1].parent == parent
    if parent == 0:
        asked = [SYSTEM, ASK, first.message, tool(call["id"], "a.py")]
        assert full_messages(session.completions, 1) == asked


async def test_a_fork_goes_on_from_the_record_apart_from_it():
    session = RecordedSession(ScriptedModel(THREE), budget=Budget(cost_usd=9))
    first = await say(session, SYSTEM, ASK)
    child = session.fork("leaf")
    results = [first.message, tool("call_0_0", "a.py")]
    await say(session, SYSTEM, ASK, *results)
    other = [first.message, tool("call_0_0", "b.py")]
    second = await say(child, SYSTEM, ASK, *other)
    more = [second.message, tool("call_1_0", "1"), tool("call_1_1", "2")]
    await say(child, SYSTEM, ASK, *other, *more)
    assert [c.parent for c in child.completions] == [None, 0, 1]
    assert [c.parent for c in session.completions] == [None, 0]
    assert full_messages(child.completions, 2) == [SYSTEM, ASK, *other, *more]
    assert (child.id, child.counts.forks, child.counts.extended) == ("leaf", 0, 2)
    assert child.usage.prompt_tokens > session.usage.prompt_tokens
    assert child.budget == session.budget


async def test_rewritten_history_forks_from_the_last_answer_it_shares():
    session = RecordedSession(ScriptedModel([LS, LS, LS, Turn(text="x")]))
    one = await say(session, ASK)
    base = [ASK, one.message, tool("call_0_0", "a.py")]
    two = await say(session, *base)
    await say(session, *base, two.message, tool("call_1_0", "long"))
    await say(session, *base, two.message, tool("call_1_0", "[dropped]"))
    assert [c.parent for c in session.completions] == [None, 0, 1, 1]
    assert session.counts.forks == 1
    other = {"role": "user", "content": "Summarise: you listed files."}
    await say(session, other)
    assert session.completions[4].parent is None
    assert session.counts.roots == 2


async def test_changing_a_message_in_place_is_seen():
    session = RecordedSession(ScriptedModel([LS, Turn(text="x")]))
    history = [{"role": "user", "content": [{"type": "text", "text": "one"}]}]
    first = await session.complete(ModelRequest(history))
    history[0]["content"][0]["text"] = "two"
    await session.complete(ModelRequest([*history, first.message, tool("call_0_0", "a")]))
    assert session.completions[1].parent is None
    assert session.completions[1].messages[0]["content"] == "two"


async def test_the_same_prompt_sampled_again_is_a_sibling():
    session = RecordedSession(ScriptedModel([LS, Turn(text="x")]))
    await asyncio.gather(say(session, ASK), say(session, ASK))
    await say(session, ASK)
    assert [c.parent for c in session.completions] == [None, None, None]
    assert session.counts.forks >= 1


async def test_other_tools_are_another_root():
    session = RecordedSession(ScriptedModel([LS, Turn(text="x")]))
    first = await say(session, ASK)
    await say(session, ASK, first.message, tool("call_0_0", "a"), tools=())
    assert session.completions[1].parent is None


async def test_lines_tell_a_title_call_from_the_main_line():
    title = Turn(when="title", text="A title")
    session = RecordedSession(ScriptedModel([LS, Turn(text="done")], asides=[title]))
    await say(session, {"role": "user", "content": "write a title"}, tools=())
    first = await say(session, SYSTEM, ASK)
    await say(session, SYSTEM, ASK, first.message, tool("call_0_0", "a"))
    found = session.lines()
    assert [(line.completions, line.main) for line in found] == [((1, 2), True), ((0,), False)]


async def test_faults_are_recorded_and_leave_the_session_usable():
    model = ScriptedModel(
        [Turn(text="one two", fault=(Fault(status=429, retry_after=3), Fault(deltas=1)))]
    )
    session = RecordedSession(model, secrets=["very-secret-value"])
    with pytest.raises(RateLimitError) as caught:
        await say(session, ASK)
    assert caught.value.retry_after == 3
    with pytest.raises(ModelError):
        await say(session, ASK)
    assert (await say(session, ASK)).message["content"] == "one two"
    assert [(f.cause, f.status) for f in session.faults] == [("rate_limit", 429), ("server", 500)]
    assert session.counts.forks == 0
    with pytest.raises(InputError, match="at least one message"):
        await say(session)
    assert session.faults[-1].cause == "input"


async def test_leaving_a_stream_is_recorded_as_cancelled():
    session = RecordedSession(ScriptedModel([Turn(text="a b c d")]))
    stream = session.stream(ModelRequest([ASK]))
    assert (await anext(stream)).text == "a "
    await stream.aclose()
    assert [f.cause for f in session.faults] == ["cancelled"]
    assert not session.completions
    await say(session, ASK)
    assert len(session.completions) == 1


async def test_a_completion_is_recorded_before_its_last_delta():
    kept = []
    session = RecordedSession(ScriptedModel(["hello"]), record=kept.append)
    async for delta in session.stream(ModelRequest([ASK])):
        if delta.completion is not None:
            assert len(kept) == len(session.completions) == 1
    assert kept[0].message["content"] == "hello"


async def test_an_ended_session_refuses():
    session = RecordedSession(ScriptedModel(["hello"]))
    session.end("the episode was submitted")
    with pytest.raises(SessionEndedError, match="submitted"):
        await say(session, ASK)
    assert session.stop is None


@pytest.mark.parametrize(
    ("budget", "stop"),
    [
        (Budget(tokens=20), "tokens"),
        (Budget(cost_usd=0.5), "cost"),
        (Budget(context=30), "context"),
    ],
)
async def test_a_used_up_budget_ends_the_session(budget, stop):
    turn = Turn(text="word " * 30, cost_usd=0.6)
    session = RecordedSession(ScriptedModel([turn, turn]), budget=budget)
    first = await say(session, ASK)
    for _ in range(2):
        with pytest.raises(BudgetError) as caught:
            await say(session, ASK, first.message, ASK)
        assert caught.value.stop == session.stop == stop
    assert session.faults[0].cause == stop
    assert len(session.completions) == 1


async def test_a_budget_bounds_the_next_call():
    seen = []

    def answer(request):
        seen.append(request.sampling.max_tokens)
        return Turn(text="word " * 8)

    session = RecordedSession(ScriptedModel(answer), budget=Budget(tokens=100))
    await say(session, ASK, sampling=Sampling(max_tokens=50))
    await say(session, ASK, sampling=Sampling(max_tokens=500))
    assert seen[0] == 50
    assert seen[1] == 100 - session.completions[0].usage.completion_tokens


async def test_forced_sampling_replaces_the_agents():
    session = RecordedSession(ScriptedModel(["x"]), sampling=Sampling(temperature=0.7, top_p=0.9))
    await say(session, ASK, sampling=Sampling(temperature=0, stop=("END",), max_tokens=9))
    assert session.completions[0].sampling == {
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["END"],
        "max_tokens": 9,
    }


async def test_keys_are_redacted_in_the_record_only():
    key = "sk-ant-" + "a1" * 24
    said = f"the key is {key} and my-own-secret"
    session = RecordedSession(ScriptedModel([said, "y"]), secrets=["my-own-secret"])
    first = await say(session, {"role": "user", "content": f"use {key}"})
    assert first.message["content"] == said
    record = session.completions[0]
    assert record.message["content"] == "the key is [redacted] and [redacted]"
    assert record.messages[0]["content"] == "use [redacted]"
    await say(session, {"role": "user", "content": f"use {key}"}, first.message, ASK)
    assert session.completions[1].parent == 0
