"""Streams put together: whatever a server sends, an answer or a `ModelError`."""

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.backends.wire import FINISH, Assembler, messages_for
from m2gym.core.errors import ModelError
from m2gym.core.trajectory import Usage
from m2gym.models.messages import canonical

FIELDS = ["delta", "content", "tool_calls", "index", "id", "function", "name", "arguments"]
FIELDS += ["logprob", "token", "token_ids", "prompt_tokens", "completion_tokens"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=6,
)
function = st.fixed_dictionaries({}, optional={"name": anything, "arguments": anything})
call = st.fixed_dictionaries(
    {}, optional={"id": anything, "index": anything, "function": function | anything}
)
delta = st.fixed_dictionaries(
    {},
    optional={
        "content": anything,
        "reasoning_content": anything,
        "tool_calls": st.lists(call | anything, max_size=2),
    },
)
item = st.fixed_dictionaries({"logprob": anything}, optional={"token": anything})
logprobs = st.fixed_dictionaries({"content": st.lists(item, max_size=2)})
choice = st.fixed_dictionaries(
    {"delta": delta | anything},
    optional={
        "finish_reason": anything,
        "token_ids": anything,
        "logprobs": logprobs | anything,
    },
)
chunk = st.fixed_dictionaries(
    {"choices": st.lists(choice | anything, max_size=2) | anything},
    optional={"usage": anything, "prompt_token_ids": anything, "model": anything},
)


@settings(max_examples=500, deadline=None)
@given(st.lists(chunk, max_size=3))
def test_no_stream_makes_it_fail_otherwise(chunks):
    whole = Assembler()
    with contextlib.suppress(ModelError):
        whole.take(chunks)
        whole.completion(prompt_ids=whole.prompt_ids, response_ids=whole.response_ids)
    message = whole.message
    assert canonical(message) == message
    assert whole.finish_reason in FINISH.values()
    used = whole.usage or {}
    assert all(isinstance(used.get(key), int | None) for key in Usage.model_fields)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(max_size=12),
    thinking=st.text(max_size=12),
    calls=st.lists(st.dictionaries(st.text("k", max_size=2), st.integers()), max_size=3),
    step=st.integers(1, 5),
)
def test_however_it_is_cut_the_whole_is_the_same(text, thinking, calls, step):
    def cut(value):
        return [value[at : at + step] for at in range(0, len(value), step)]

    deltas = [{"reasoning_content": part} for part in cut(thinking)]
    deltas += [{"content": part} for part in cut(text)]
    for n, given_ in enumerate(calls):
        head = {"index": n, "id": f"c{n}", "function": {"name": "f", "arguments": ""}}
        deltas.append({"tool_calls": [head]})
        deltas += [
            {"tool_calls": [{"index": n, "function": {"arguments": part}}]}
            for part in cut(json.dumps(given_))
        ]
    whole = Assembler()
    seen = whole.take([{"choices": [{"delta": delta}]} for delta in deltas])
    message = whole.message
    assert message["content"] == text == "".join(d.text for d in seen)
    assert message.get("reasoning_content", "") == thinking
    got = [json.loads(c["function"]["arguments"]) for c in message.get("tool_calls", ())]
    assert got == calls
    assert whole.finish_reason == ("tool_calls" if calls else "stop")


def test_a_call_without_a_name_is_malformed():
    whole = Assembler()
    whole.take([{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{"}}]}}]}])
    assert whole.message["malformed"][0]["problem"] == "a tool call without a name"
    assert "tool_calls" not in whole.message


def test_what_is_sent_has_no_fields_of_ours():
    message = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "reasoning_opaque": [1],
        "malformed": [{}],
        "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "p", "input": "x"}}],
    }
    (plain,) = messages_for([message], thinking=False)
    assert plain.keys() == {"role", "content", "tool_calls"}
    assert plain["tool_calls"][0]["function"] == {"name": "p", "arguments": '{"input": "x"}'}
    (thoughtful,) = messages_for([message], thinking=True)
    assert thoughtful["reasoning_content"] == "hm"
