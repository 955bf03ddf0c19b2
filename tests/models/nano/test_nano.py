import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from m2gym.core.tools import ToolSchema
from m2gym.models import nano
from m2gym.models.formats import guess_format
from m2gym.models.minimax_m2 import MARKS, MiniMaxM2
from m2gym.models.nano.shape import DENSE, SHAPE, build, count
from m2gym.models.nano.vocabulary import train_tokenizer
from m2gym.models.tokenizer import HfTokenizer

CALL = {"name": "kolu", "arguments": {"key": "mira", "n": 3}}
MESSAGES = [
    {"role": "system", "content": "Tools: kolu."},
    {"role": "user", "content": "What?"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "use kolu",
        "tool_calls": [{"type": "function", "id": "1", "function": CALL}],
    },
    {"role": "tool", "content": "one"},
    {"role": "tool", "content": "two"},
    {"role": "assistant", "content": "one", "reasoning_content": "done"},
    {"role": "user", "content": "And?"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return HfTokenizer.load(nano.folder())


def test_m2s_marks_are_tokens_and_plain_text_is_not_marked(tokenizer):
    assert all(tokenizer.special(mark) is not None for mark in MARKS)
    assert not set(tokenizer.encode("[e~[ <think>")) & {tokenizer.special(m) for m in MARKS}
    assert tokenizer.vocabulary == SHAPE["vocab_size"]


def test_any_text_comes_back(tokenizer):
    for text in ("What is 12 minus 7?", "naïve ☃ \t\r\n", "mira9tabo", " \x00 "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer):
    alone = tokenizer.encode("tolkonvu")
    for text in ("<tolkonvu>", " tolkonvu", "7tolkonvu7", "[[tolkonvu|"):
        assert str(alone)[1:-1] in str(tokenizer.encode(text))


@pytest.mark.parametrize("first", [0, 1], ids=["system", "no system"])
@pytest.mark.parametrize("tools", [[], [ToolSchema(name="kolu", description="lookup")]])
def test_the_chat_template_is_our_format(tokenizer, first, tools):
    ours = json.loads(json.dumps(MESSAGES))
    ours[2]["tool_calls"][0]["function"]["arguments"] = json.dumps(CALL["arguments"])
    format = MiniMaxM2(tokenizer)
    theirs = tokenizer.apply_template(MESSAGES[first:], [tool.openai() for tool in tools])
    assert theirs == format.text(ours[first:], tools)
    assert guess_format(tokenizer).render(ours[first:], tools)


def test_the_shape_fits():
    whole, active = count(build(SHAPE))
    assert whole <= 4_000_000
    dense_whole, dense_active = count(build(DENSE))
    assert dense_whole == dense_active
    assert abs(dense_active - active) < 0.02 * active


def test_a_tokenizer_can_be_trained(tmp_path):
    made = train_tokenizer(["use kolu", "kolu mira tabo"] * 10, 300)
    made.save_pretrained(tmp_path)
    again = HfTokenizer.load(tmp_path)
    assert again.decode(again.encode("kolu, tabo")) == "kolu, tabo"
    assert "]~b]ai" in again.chat_template
