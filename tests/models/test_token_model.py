"""Token-exact records: recorded ids are reused, whatever a client does to its copy."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import BudgetError, ModelError
from m2gym.core.protocols import ModelRequest, Sampling, TokenOutput
from m2gym.core.tools import ToolSchema
from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Verdict
from m2gym.forge.tree import build_tree, samples_of
from m2gym.models.formats import byte_format
from m2gym.models.messages import canonical
from m2gym.models.scripted_engine import ScriptedEngine
from m2gym.models.session import RecordedSession
from m2gym.models.token_model import TokenModel
from m2gym.models.tokens import common_prefix, full_messages, full_prompt, held

BASH = ToolSchema(
    name="bash", parameters={"type": "object", "properties": {"command": {"type": "string"}}}
)
ASK = {"role": "user", "content": "List the files."}
LS = (
    'I look.\n</think>\n\n<minimax:tool_call>\n<invoke name="bash">\n'
    '<parameter name="command">ls  -la</parameter>\n</invoke>\n</minimax:tool_call>'
)


def model(answers, name="minimax-m2", context=None, **options):
    form = byte_format(name, **options)
    engine = ScriptedEngine(form, answers)
    return TokenModel(engine, form, context=context)


class Seen:
    """An engine's prompts, kept."""

    def __init__(self, engine):
        self.engine, self.prompts = engine, []

    async def generate(self, ids, sampling, *, session_id):
        self.prompts.append(list(ids))
        return await self.engine.generate(ids, sampling, session_id=session_id)


async def test_a_turn_reuses_the_ids_that_were_generated():
    seen = model([LS, "t\n</think>\n\nDone."])
    seen.engine = Seen(seen.engine)
    session = RecordedSession(seen)
    first = await session.complete(ModelRequest([ASK], (BASH,)))
    call = first.message["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"command": "ls  -la"}
    dropped = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "a.py"}
    await session.complete(ModelRequest([ASK, dropped, result], (BASH,)))
    one, two = session.completions
    assert two.parent == 0
    assert seen.engine.prompts[1] == held(session.completions, 0) + list(two.prompt_ids)
    assert two.usage.prompt_tokens == len(seen.engine.prompts[1])
    text = seen.format.tokenizer.decode(two.prompt_ids)
    assert text == "\n]~b]tool\n<response>a.py</response>[e~[\n]~b]ai\n<think>\n"
    assert len(one.logprobs) == len(one.response_ids) == len(one.weight_versions)
    assert one.response_ids[-1] == seen.format.end_id
    assert one.finish_reason == "tool_calls"
    assert two.finish_reason == "stop"
    assert session.counts.drifted == 0


async def test_a_recorded_session_is_training_data():
    seen = model([LS, "t\n</think>\n\nDone.", "u\n</think>\n\nOther."])
    seen.engine = Seen(seen.engine)
    session = RecordedSession(seen)
    first = await session.complete(ModelRequest([ASK], (BASH,)))
    result = {"role": "tool", "tool_call_id": "call_0_0", "content": "a.py"}
    await session.complete(ModelRequest([ASK, first.message, result], (BASH,)))
    await session.complete(ModelRequest([ASK, first.message, {**result, "content": "b"}], (BASH,)))
    record = Trajectory(
        id="t", env="e", task="t", task_hash="", agent="a",
        completions=tuple(session.completions), verdict=Verdict(reward=1.0),
    )  # fmt: skip
    samples = samples_of(record)
    for n, (sample, prompt) in enumerate(zip(samples, seen.engine.prompts, strict=True)):
        completion = session.completions[n]
        assert list(record.full_prompt(n)) == prompt == full_prompt(session.completions, n)
        assert sample.ids_T.tolist() == prompt + list(completion.response_ids)
        assert int(sample.trained_T.sum()) == len(completion.response_ids)
    tree = build_tree(samples)
    held_once = sum(len(c.prompt_ids) + len(c.response_ids) for c in session.completions)
    assert tree.tokens <= held_once < tree.unmerged_tokens


async def test_dropped_thinking_of_the_published_template_is_counted_as_drift():
    rewriting = model(["hm\n</think>\n\nYes.", "hm\n</think>\n\nNo."], keep_thinking=False)
    session = RecordedSession(rewriting)
    first = await session.complete(ModelRequest([ASK]))
    await session.complete(ModelRequest([ASK, first.message, ASK]))
    two = session.completions[1]
    assert two.parent is None
    before, now = held(session.completions, 0), list(two.prompt_ids)
    assert two.drift == len(before) - common_prefix(before, now) > 0
    assert (session.counts.drifted, session.counts.drift_tokens) == (1, two.drift)
    assert full_messages(session.completions, 1) == [ASK, first.message, ASK]
    assert "hm" not in rewriting.format.tokenizer.decode(two.prompt_ids)


async def test_an_answer_cut_by_its_limit_goes_on_exactly():
    session = RecordedSession(model(["one two three", "more"], name="chatml"))
    request = ModelRequest([ASK], sampling=Sampling(max_tokens=5))
    first = await session.complete(request)
    assert (first.message["content"], first.finish_reason) == ("one t", "length")
    await session.complete(ModelRequest([ASK, first.message, ASK]))
    text = byte_format("chatml").tokenizer.decode(session.completions[1].prompt_ids)
    assert text.startswith("<|im_end|>\n<|im_start|>user\n")
    assert session.completions[1].parent == 0


async def test_the_context_bounds_prompt_and_answer():
    small = model(["x" * 50, "y"], name="chatml", context=80)
    session = RecordedSession(small)
    first = await session.complete(ModelRequest([ASK]))
    one = session.completions[0]
    assert len(one.prompt_ids) + len(one.response_ids) == 80
    with pytest.raises(BudgetError) as caught:
        await session.complete(ModelRequest([ASK, first.message, ASK]))
    assert caught.value.stop == session.stop == "context"
    assert session.ended is None
    await session.complete(ModelRequest([{"role": "user", "content": "short"}]))
    assert session.stop is None


async def test_an_engine_that_answers_nonsense_is_a_fault():
    class Broken:
        async def generate(self, ids, sampling, *, session_id):
            return TokenOutput((1, 2), (0.5,), (), "stop")

    session = RecordedSession(TokenModel(Broken(), byte_format()))
    with pytest.raises(ModelError, match="2 ids and 1 logprobs"):
        await session.complete(ModelRequest([ASK]))
    assert session.faults[0].cause == "broken"


async def test_weight_versions_are_those_of_the_tokens():
    used = model(["a", "b"], name="chatml")
    session = RecordedSession(used)
    await session.complete(ModelRequest([ASK]))
    await used.engine.update_weights(3)
    await session.complete(ModelRequest([ASK]))
    assert [set(c.weight_versions) for c in session.completions] == [{0}, {3}]


async def test_calls_at_the_same_time_and_failures_keep_prompts_right():
    """Twenty samples of one history at once, some of whose calls fail: no list of ids is shared."""
    form = byte_format("chatml")

    class Slow(Seen):
        calls = 0

        async def generate(self, ids, sampling, *, session_id):
            before = list(ids)
            self.calls += 1
            mine = self.calls
            await asyncio.sleep((mine * 7 % 5) / 1000)
            assert list(ids) == before, "the ids changed while they were used"
            if mine % 4 == 3:
                raise ModelError("lost", cause="network")
            return await super().generate(ids, sampling, session_id=session_id)

    engine = Slow(ScriptedEngine(form, lambda ids: f"n{len(ids)}"))
    session = RecordedSession(TokenModel(engine, form))
    first = await session.complete(ModelRequest([ASK]))
    for _ in range(2):
        asked = [
            ModelRequest([ASK, first.message, {"role": "user", "content": str(n % 3)}])
            for n in range(10)
        ]
        done = await asyncio.gather(*map(session.complete, asked), return_exceptions=True)
        assert any(isinstance(one, ModelError) for one in done)
    prompts = sorted(full_prompt(session.completions, n) for n in range(len(session.completions)))
    assert prompts == sorted(engine.prompts)
    assert [c.parent for c in session.completions] == [None] + [0] * (len(prompts) - 1)
    assert len(session.faults) + len(prompts) == 21
    assert {fault.cause for fault in session.faults} == {"network"}


class Client:
    """An agent that keeps conversations and says its history in another form each time."""

    def __init__(self, draw):
        self.draw = draw

    def disguise(self, message):
        draw, out = self.draw, json.loads(json.dumps(message))
        if isinstance(out["content"], str) and draw(st.booleans()):
            cut = draw(st.integers(0, len(out["content"])))
            parts = [out["content"][:cut], out["content"][cut:]]
            out["content"] = [{"type": "text", "text": part} for part in parts]
            if draw(st.booleans()):
                out["content"][-1]["cache_control"] = {"type": "ephemeral"}
        if out["role"] == "assistant":
            if draw(st.booleans()):
                out.pop("reasoning_content", None)
            for call in out.get("tool_calls", ()):
                if draw(st.booleans()):
                    given = json.loads(call["function"]["arguments"])
                    call["function"]["arguments"] = json.dumps(given, indent=1)
            if not out["content"] and draw(st.booleans()):
                out["content"] = None
        if draw(st.booleans()):
            out["id"] = "msg_1"
        return out


word = st.text("abc<>[e~\n", max_size=6)


@pytest.mark.parametrize("name", ["minimax-m2", "chatml"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
async def test_any_use_gives_a_tree_whose_prompts_are_what_was_asked(name, data):
    """Extensions, forks, rewrites, other tools, in any order and disguise: each recorded prompt
    is the engine's, holds the asked messages, and extends whenever a recorded answer is extended.
    """
    form = byte_format(name)
    said = iter(range(1000))

    def answer(ids):
        thought = data.draw(st.sampled_from(["", "hm\n</think>\n\n"])) if name[0] == "m" else ""
        call = data.draw(st.booleans())
        text = f"{thought or ('</think>' if name[0] == 'm' else '')}n{next(said)}"
        if not call:
            return text
        if name == "chatml":
            return text + '<tool_call>{"name": "bash", "arguments":{"command":"x"}}</tool_call>'
        invoke = '<invoke name="bash"><parameter name="command">x</parameter></invoke>'
        return text + f"<minimax:tool_call>{invoke}</minimax:tool_call>"

    engine = Seen(ScriptedEngine(form, answer))
    session = RecordedSession(TokenModel(engine, form))
    client = Client(data.draw)
    talks = []
    for _ in range(data.draw(st.integers(1, 7))):
        kind = data.draw(st.sampled_from(["new", "extend", "again", "rewrite"])) if talks else "new"
        tools = (BASH,)
        parent = None
        if kind == "new":
            asked = [{"role": "user", "content": data.draw(word)}]
            if data.draw(st.booleans()):
                asked.insert(0, {"role": "system", "content": data.draw(word)})
            tools = data.draw(st.sampled_from([(), (BASH,)]))
        else:
            index, prompt, tools = data.draw(st.sampled_from(talks))
            asked = [*prompt]
            if kind in ("extend", "rewrite"):
                reply = session.completions[index].message
                asked.append(reply)
                calls = reply.get("tool_calls", ())
                asked += [
                    {"role": "tool", "tool_call_id": c["id"], "content": data.draw(word)}
                    for c in calls
                ]
                if not calls:
                    asked.append({"role": "user", "content": data.draw(word)})
                parent = index
            if kind == "rewrite":
                asked[0] = {**asked[0], "content": asked[0]["content"] + "!rewritten"}
                parent = None
        got = await session.complete(
            ModelRequest([client.disguise(message) for message in asked], tools)
        )
        at = len(session.completions) - 1
        record = session.completions[at]
        assert full_prompt(session.completions, at) == engine.prompts[at]
        heard = full_messages(session.completions, at)
        assert [m["content"] for m in heard] == [m["content"] for m in asked]
        if parent is not None:
            assert record.parent is not None
            assert record.drift == 0
            assert heard == [canonical(message) for message in asked]
            assert record.parent == parent or session.completions[parent].message == (
                session.completions[record.parent].message
            )
        if kind in ("new", "rewrite"):
            assert engine.prompts[at][: len(engine.prompts[at])] == form.render(heard, tools) or (
                record.parent is not None
            )
        assert canonical(got.message)["content"] == record.message["content"]
        talks.append((at, heard, tools))
    for index, completion in enumerate(session.completions):
        assert completion.parent is None or completion.parent < index
