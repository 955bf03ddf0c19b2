"""ChatML with Hermes' calls."""

import json

import pytest

from m2gym.core.errors import UnknownIdError
from m2gym.core.tools import ToolSchema
from m2gym.models.chatml import MARKS, ChatML
from m2gym.models.formats import byte_format, guess_format, load_format
from m2gym.models.messages import assistant
from tests.models.tokenizers_for_tests import small_tokenizer

BASH = ToolSchema(name="bash")
CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
TEMPLATE = (
    "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
TALK = [
    {"role": "system", "content": "Be good."},
    {"role": "user", "content": "hi ünd"},
    assistant("yes?"),
    {"role": "user", "content": "no\n"},
]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_plain_conversations_are_the_templates(length):
    tokenizer = small_tokenizer(*MARKS, template=TEMPLATE)
    expected = tokenizer.apply_template(TALK[:length])
    form = ChatML(tokenizer)
    assert form.text(TALK[:length]) == expected
    plain = tokenizer.tokenizer(expected, add_special_tokens=False)["input_ids"]
    assert form.render(TALK[:length]) == plain


@pytest.mark.parametrize("role", ["tool", "user"])
def test_calls_and_results(role):
    form = byte_format("chatml", tool_role=role)
    said = assistant("", calls=[("a", "bash", '{"command":"ls"}'), ("b", "bash", "{}")])
    results = [{"role": "tool", "tool_call_id": i, "content": i} for i in "ab"]
    text = form.text([TALK[1], said, *results], [BASH])
    assert CALL + '\n<tool_call>\n{"name": "bash", "arguments": {}}' in text
    assert text.endswith(
        f"<|im_start|>{role}\n<tool_response>\na\n</tool_response>\n<tool_response>\nb\n"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert json.dumps(BASH.openai()) in text


def parse(form, text, tools=(BASH,)):
    return form.parse(form.ids([text]), tools)


def test_calls_are_read():
    form = byte_format("chatml")
    got = parse(form, f"I look.\n{CALL}\n{CALL}")
    assert got["content"] == "I look."
    assert [c["function"]["arguments"] for c in got["tool_calls"]] == ['{"command": "ls"}'] * 2
    fenced = parse(form, '```\n{"name": "bash", "arguments": {}}\n```')
    assert fenced["tool_calls"][0]["function"]["name"] == "bash"


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ('<tool_call>\n{"name": "bash", "argu', "cut off"),
        ("<tool_call>\n{'name': 1}\n</tool_call>", "not JSON"),
        ('<tool_call>\n{"name": "bash", "arguments": {"x": NaN}}\n</tool_call>', "NaN"),
        ('<tool_call>\n{"arguments": {}}\n</tool_call>', "name and arguments"),
    ],
)
def test_broken_calls_are_data(block, problem):
    got = parse(byte_format("chatml"), f"So.\n{block}")
    assert problem in got["malformed"][0]["problem"]
    assert got["content"] == f"So.\n{block}"
    assert "tool_calls" not in got


def test_thinking():
    form = byte_format("chatml", thinking=True)
    assert form.text(TALK[:2]).endswith("<|im_start|>assistant\n<think>\n")
    assert parse(form, "hm\n</think>\n\nyes") == assistant("yes", thinking="hm")
    untold = byte_format("chatml")
    assert parse(untold, "<think>\nhm\n</think>\n\nyes") == assistant("yes", thinking="hm")


def test_formats_by_name_and_by_tokens():
    tokenizer = small_tokenizer(*MARKS)
    assert isinstance(guess_format(tokenizer), ChatML)
    assert load_format("qwen", tokenizer).tool_role == "user"
    with pytest.raises(UnknownIdError, match="chatml"):
        load_format("chatmll", tokenizer)
