"""``icrl`` with a scripted model in real episodes."""

from __future__ import annotations

import json

import pytest

import m2gym
from m2gym.core.errors import InputError
from m2gym.models import ScriptedModel, Turn
from m2gym.scaffolds.icrl import CORRECTION, LAST, Icrl


@pytest.fixture
def environment(tmp_path):
    row = {"question": "What is 6 * 7?", "answer": "#### 42"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    from m2gym.tasksets.tool_use import tool_use

    tasks = tool_use(taskset="gsm8k", test=str(tmp_path / "rows.jsonl"), accuracy=0.8, format=0.2)
    m2gym.envs.catalog.ENVS.register(
        "six-times-seven",
        m2gym.envs.EnvEntry(
            "six-times-seven", lambda: tasks, tools=m2gym.envs.env_entry("tool-use").tools
        ),
    )


def attempt(tmp_path, said, **options):
    model = ScriptedModel([Turn(text=text) for text in said])
    run = m2gym.evaluate(
        "six-times-seven", agent=Icrl(**options), model=model, workspace="process",
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    (trajectory,) = run.trajectories
    assert trajectory.error is None
    return trajectory


def test_calls_corrections_and_the_answer(environment, tmp_path):
    done = attempt(
        tmp_path,
        ["hm", "<think>t</think><calculator>6*7", "<calculator>6*</calculator>", "<answer>42"],
        shots=2,
    )
    assert done.verdict.reward == 1.0
    first, *later = (c.messages[-1]["content"] for c in done.completions)
    assert first.count("Question:") == 3
    assert first.endswith("Question: What is 6 * 7?")
    assert "<search>" not in first, "no tool that the task does not have"
    assert later[0] == CORRECTION
    assert later[1] == "<information>42</information>"
    assert "not an arithmetic expression" in later[2]
    assert [c.parent for c in done.completions] == [None, 0, 1, 2], "one conversation"
    said = done.steps[-1].action["arguments"]["response"]
    assert said.endswith("<answer>42</answer>")
    assert "Question" not in said, "the prompt is not what is scored"


@pytest.mark.parametrize("examples", ["prompt", "turns"])
def test_tags_of_ones_own(environment, tmp_path, examples):
    """The model reads and writes them; rewards and tools know the usual ones."""
    tags = {"answer": "final", "calculator": "sum", "information": "told", "think": "why"}
    said = ["<answer>42</answer>", "<why>t</why><sum>6*7", "<why>so</why><final>42"]
    done = attempt(tmp_path, said, tags=tags, shots=2, examples=examples, turns=2)
    assert done.verdict.reward == 1.0
    assert "<final>42</final>" in done.steps[-1].action["arguments"]["response"], "no answer there"
    first, correction, told = (c.messages for c in done.completions)
    shown = "".join(str(m["content"]) for m in first)
    assert "<final>" in shown
    assert not any(f"<{tag}>" in shown for tag in tags)
    assert correction[-1]["content"] == CORRECTION.replace("answer>", "final>")
    assert told[-1]["content"] == "<told>42</told>\n" + LAST.replace("answer>", "final>")
    assert [m["role"] for m in first] == ["user", "assistant"] * (len(first) // 2) + ["user"]


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"fly": "x"}, "unknown tag"),
        ({"answer": "search"}, "each another"),
        ({"answer": "a b"}, "words"),
    ],
)
def test_tags_that_make_no_sense(tags, says):
    with pytest.raises(InputError, match=says):
        Icrl(tags=tags)


def test_without_an_answer_the_response_is_scored_all_the_same(environment, tmp_path):
    done = attempt(tmp_path, ["<calculator>1+1</calculator>"] * 3, turns=2)
    assert len(done.completions) == 3
    assert done.completions[-1].messages[-1]["content"].endswith(LAST)
    assert done.verdict.reward == pytest.approx(0.2 * (1 - 0.5 - 0.15 - 0.2))


def test_a_curriculum_goes_with_the_updates():
    agent = Icrl(shots=[3, 2, 0], stage_updates=10)
    assert [agent.at_update(n).shots for n in (0, 9, 10, 29, 99)] == [(3,), (3,), (2,), (0,), (0,)]
    for wrong in ({"shots": -1}, {"shots": []}, {"shots": 99}, {"turns": -1}):
        with pytest.raises(InputError, match="icrl"):
            Icrl(**wrong)
