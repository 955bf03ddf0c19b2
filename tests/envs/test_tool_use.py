"""The environment ``tool-use``: its tools, its tasks, and what is wrong with settings."""

from __future__ import annotations

import json

import pytest

import m2gym
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.envs.tool_use import calculate
from m2gym.tasksets.tool_use import tool_use


@pytest.fixture
def gsm8k(tmp_path):
    rows = [
        {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
        {"question": "Many?", "answer": "so\n#### 1,000"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def hotpot(tmp_path):
    pytest.importorskip("bm25s", reason="bm25s is in extra 'search'")
    corpus = {
        "Ada": ["Ada was born in London.", " She wrote programs."],
        "Bob": ["Bob lives by the sea."],
        "Cleo": ["Cleo is a cat. " + "purr " * 900],
        "Dan": ["Dan has no pets."],
    }
    (tmp_path / "corpus.json").write_text(json.dumps(corpus))
    rows = [{"_id": "q1", "question": "Where was Ada born?", "answer": "London"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return {"corpus": str(tmp_path / "corpus.json"), "test": str(tmp_path / "rows.json")}


def make(**settings):
    return m2gym.make("tool-use", workspace="process", **settings)


def test_tools_and_the_verdict(gsm8k):
    env = make(taskset="gsm8k", test=str(gsm8k), accuracy=0.8, format=0.2)
    env.reset(options={"task": "gsm8k-test/0"})
    assert [tool.name for tool in env.tools] == ["python", "calculator", "answer"]
    text, *_ = env.step({"name": "python", "arguments": {"code": "print(2 + 2)\n1 / 0"}})
    assert text.startswith("4\n")
    assert "ZeroDivisionError" in text
    assert env.step({"name": "calculator", "arguments": {"expression": "2+2"}})[0] == "4"
    said = "<think>x</think><python>1</python><answer>4</answer>"
    _, reward, done, _, info = env.step({"name": "answer", "arguments": {"response": said}})
    assert (reward, done, info["verdict"].status) == (1.0, True, "ok")
    env.reset(options={"task": "gsm8k-test/1"})
    assert env.step({"name": "answer", "arguments": {"response": "1000"}})[1] == 0.8 + 0.2 * 0.05
    env.reset(options={"task": "gsm8k-test/1"})
    assert env.submit()[1] == 0.0, "no answer is a wrong answer"
    env.close()
    env = make(taskset="gsm8k", test=str(gsm8k), format=1.0, penalties={"no think pair": 0.0})
    env.reset(options={"task": "gsm8k-test/0"})
    said = "<python>1</python><answer>4</answer>"
    assert env.step({"name": "answer", "arguments": {"response": said}})[1] == 2.0
    env.close()


def test_search_finds_and_is_cut(hotpot):
    env = make(taskset="hotpotqa", **hotpot)
    env.reset(options={"task": "hotpotqa/q1"})
    found, *_ = env.step({"name": "search", "arguments": {"query": "Ada born"}})
    assert found.startswith("Ada: Ada was born in London.")
    cut, *_ = env.step({"name": "search", "arguments": {"query": "Cleo purr"}})
    assert cut.endswith(" …")
    assert len(cut.split(" ")) == 376
    env.close()
    env = make(taskset="hotpotqa", **hotpot, passages=1, words=4)
    env.reset(options={"task": "hotpotqa/q1"})
    assert env.step({"name": "search", "arguments": {"query": "Ada"}})[0] == "Ada: Ada was born …"
    with pytest.raises(InputError, match="at least one word"):
        env.step({"name": "search", "arguments": {"query": "?!"}})
    env.close()


def test_reasoning_gym_has_disjoint_splits_that_repeat():
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is in extra 'tasks'")
    one, two = tool_use(size=30), tool_use(size=30)
    questions = {
        split: [one.task(i).instruction for i in one.ids(split)] for split in ("train", "test")
    }
    assert len(questions["train"]) == 180
    assert len(questions["test"]) > 120
    assert not {*questions["train"]} & {*questions["test"]}
    assert [two.task(i) for i in two.ids("test")] == [one.task(i) for i in one.ids("test")]
    with pytest.raises(InputError, match="many right answers"):
        tool_use(families=["countdown"])
    with pytest.raises(UnknownIdError, match="chain_sum"):
        tool_use(families=["chain_sun"])


def test_wrong_settings_are_named(tmp_path, gsm8k):
    with pytest.raises(UnknownIdError, match="gsm8k"):
        tool_use(taskset="gsm")
    with pytest.raises(InputError, match="sizes"):
        tool_use(taskset="gsm8k", sizes=3)
    with pytest.raises(InputError, match="train=… or test=…"):
        tool_use(taskset="gsm8k")
    with pytest.raises(InputError, match="cannot read"):
        tool_use(taskset="gsm8k", test="nowhere")
    gsm8k.write_text('{"question": "x", "answer": "4"}')
    with pytest.raises(InputError, match="####"):
        tool_use(taskset="gsm8k", test=str(gsm8k))
    gsm8k.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        tool_use(taskset="gsm8k", test=str(gsm8k))
    with pytest.raises(UnknownIdError, match="no think pair"):
        tool_use(taskset="gsm8k", test=str(gsm8k), penalties={"no thnk pair": 0})
    with pytest.raises(InputError, match="at least 1 passage"):
        tool_use(taskset="hotpotqa", corpus="nowhere", test=str(gsm8k), passages=0)
    with pytest.raises(InputError, match="corpus"):
        tool_use(taskset="hotpotqa", corpus="nowhere", test=str(gsm8k))


@pytest.mark.parametrize(
    ("expression", "value"),
    [("7 // 2 - -1", "4"), ("0.1 + 0.2", "0.30000000000000004"), ("10 % 4 * 1.5", "3"),
     ("2 ** -1", "0.5"), ("2**2**3", "256"), ("1e3", "1000")],
)  # fmt: skip
def test_what_the_calculator_gives(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "x", "1 +", "9**9**9", "2**100000", "'a'*9", "1/0", "(" * 300, "1" * 2000,
     "True + 1", "1j", "2**5000 // 2**5000", "1e308 * 10 ** 400", "", "(-8) ** 0.5 // 1"],
)  # fmt: skip
def test_what_the_calculator_refuses(expression):
    with pytest.raises(InputError):
        calculate(expression)


def test_the_shared_rows_load(shared_dir):
    data = shared_dir / "data"
    tasks = tool_use(taskset="gsm8k", test=str(data / "gsm8k" / "test.jsonl"))
    assert len(tasks.ids("test")) == 1319
    hops = tool_use(
        taskset="hotpotqa",
        test=str(data / "hotpotqa" / "hotpotqa_train.json"),
        corpus=str(data / "hotpotqa" / "hotpotqa_train_corpus.json"),
    )
    assert len(hops.ids("test")) == 100
