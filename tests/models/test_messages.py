"""The canonical form: what is dropped, what is kept, what is refused."""

import pytest

from m2gym.core.errors import InputError
from m2gym.models.messages import assistant, canonical, message_key


def test_text_blocks_join_and_cache_marks_go():
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, "b"]
    assert canonical({"role": "user", "content": blocks, "name": "x", "id": "m1"}) == {
        "role": "user",
        "content": "ab",
    }


def test_an_image_keeps_its_blocks():
    image = {"type": "image_url", "image_url": {"url": "data:,", "detail": "low", "x": 1}}
    got = canonical({"role": "user", "content": [{"type": "text", "text": "see"}, image]})
    assert got["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
    ]


def test_an_assistant_keeps_thinking_calls_and_opaque_items():
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "reasoning_opaque": [{"signature": "s"}],
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
            {"id": "d", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}},
        ],
        "audio": None,
    }
    got = canonical(message)
    assert got["content"] == ""
    assert got["reasoning_content"] == "hm"
    assert got["reasoning_opaque"] == [{"signature": "s"}]
    assert got["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert got["tool_calls"][1]["custom"] == {"name": "patch", "input": "*** Begin"}
    assert canonical(got) == got


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "robot", "content": ""}, "role"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": [{"type": "video"}]}, "block"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "tool call"),
    ],
)
def test_malformed_messages_are_named(message, words):
    with pytest.raises(InputError, match=words):
        canonical(message)


def test_keys_ignore_ids_thinking_and_the_spelling_of_arguments():
    one = assistant("hi ", thinking="t", calls=[("a", "f", '{"x": 1, "y": 2}')])
    two = assistant("hi", calls=[("b", "f", '{"y":2,"x":1}')])
    assert message_key(one) == message_key(two)
    assert message_key(one) != message_key(assistant("hi", calls=[("a", "f", '{"x": 2}')]))
    broken = assistant(calls=[("a", "f", '{"x": ')])
    assert message_key(broken) == message_key(canonical(broken))
