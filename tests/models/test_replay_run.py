"""A run recorded once through evaluation, then replayed offline: the same bytes."""

import json

import pytest

import m2gym
from m2gym.core.task import RewardSpec, Task
from m2gym.models.formats import byte_format
from m2gym.models.scripted import Call, ScriptedModel, Turn
from m2gym.models.scripted_engine import ScriptedEngine
from m2gym.models.token_model import TokenModel
from m2gym.rewards import reward
from m2gym.tasksets.memory import ListTaskset

pytestmark = pytest.mark.usefixtures("bwrap")


@reward("replay-run-answer")
def answer(artifacts):
    """1 when answer.txt says 42."""
    return float("answer.txt" in artifacts and artifacts.text("answer.txt").strip() == "42")


@pytest.fixture(scope="module")
def env():
    spec = RewardSpec(name="replay-run-answer")
    tasks = [
        Task(id=f"t{n}", instruction=f"{n}: write 42.", files={"a": str(n)}, rewards=(spec,))
        for n in range(2)
    ]
    m2gym.register("replay-run", tasks=ListTaskset("replay-run", tasks))
    return "replay-run"


def text_model():
    write = Call(name="bash", arguments={"command": "cat a && echo 42 > answer.txt"})
    return ScriptedModel(
        [Turn(thinking="I write.", calls=(write,)), Turn(calls=(Call(name="submit"),))]
    )


def token_model():
    form = byte_format()
    call = (
        'I write.\n</think>\n\n<minimax:tool_call>\n<invoke name="bash">\n'
        '<parameter name="command">cat a && echo 42 > answer.txt</parameter>\n</invoke>\n'
        "</minimax:tool_call>"
    )
    submit = (
        'ok\n</think>\n\n<minimax:tool_call>\n<invoke name="submit">\n</invoke>\n'
        "</minimax:tool_call>"
    )

    def say(ids):
        asked = form.tokenizer.decode(ids)
        return submit if "<response>" in asked else call

    return TokenModel(ScriptedEngine(form, say), form, name="tiny")


def without_times(path):
    """A run's lines without what no two runs share."""
    out = []
    for line in (path / "trajectories.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key in ("sha256", "id", "started", "seconds", "model"):
            record.pop(key)
        for step in record["steps"]:
            step.pop("seconds")
        record["verdict"].pop("evidence", None)
        out.append(json.dumps(record, sort_keys=True))
    return sorted(out)


@pytest.mark.parametrize("make", [text_model, token_model])
def test_a_replayed_run_is_the_recorded_one(make, env, tmp_path):
    settings = {"agent": "react", "attempts": 2, "concurrency": 2, "progress": False}
    first = m2gym.evaluate(env, model=make(), out=tmp_path / "a", **settings)
    assert first.score == 1.0
    assert all(len(t.completions) == 2 for t in first)
    again = m2gym.evaluate(env, model=f"replay:{tmp_path / 'a'}", out=tmp_path / "b", **settings)
    assert again.score == 1.0
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")
    assert m2gym.load_run(tmp_path / "b").trajectories[0].completions
