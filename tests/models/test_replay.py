"""Replay: a recorded episode's model, offline, to the byte; and scripts as files."""

import json

import pytest

from m2gym.core.errors import InputError
from m2gym.core.protocols import ModelRequest
from m2gym.core.tools import HostedTool, ToolSchema
from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Verdict
from m2gym.models import load_model
from m2gym.models.replay import ReplayModel
from m2gym.models.scripted import Call, Hosted, ScriptedModel, Turn
from m2gym.models.session import RecordedSession
from m2gym.models.token_model import TokenModel
from tests.models.test_token_model import ASK, BASH, LS, model

TITLE = {"role": "user", "content": "title?"}


async def converse(session, result="a.py"):
    """A title call, then a turn with a tool, then an answer."""
    await session.complete(ModelRequest([TITLE]))
    first = await session.complete(ModelRequest([ASK], (BASH,)))
    id = first.message["tool_calls"][0]["id"]
    tool = {"role": "tool", "tool_call_id": id, "content": result}
    return await session.complete(ModelRequest([ASK, first.message, tool], (BASH,)))


def episode(session, id="e1", attempt=0):
    return Trajectory(
        id=id, env="e", task="t", task_hash="h", agent="a", attempt=attempt,
        completions=tuple(session.completions), verdict=Verdict(reward=1.0),
    )  # fmt: skip


def write(path, *episodes):
    path.write_text("".join(e.model_dump_json() + "\n" for e in episodes))
    return path


@pytest.mark.parametrize("kind", ["tokens", "messages"])
async def test_a_replay_is_the_record_to_the_byte(kind, tmp_path):
    answers = ["x\n</think>\n\nA title", LS, "t\n</think>\n\nDone."]
    if kind == "tokens":
        live: TokenModel | ScriptedModel = model(answers)
    else:
        turns = [Turn(calls=(Call(name="bash", arguments={"b": 1, "a": 2}),)), Turn(text="Done.")]
        live = ScriptedModel(turns, asides=[Turn(when="title", text="A title")])
    recorded = RecordedSession(live)
    await converse(recorded)
    run = write(tmp_path / "trajectories.jsonl", episode(recorded))
    again = RecordedSession(load_model(f"replay:{tmp_path}"))
    await converse(again)
    assert episode(again).model_dump_json() + "\n" == run.read_text()


async def test_hosted_tools_and_keys_in_tools_are_replayed(tmp_path):
    turn = Turn(text="found", hosted=(Hosted(name="web_search", output=["a"]),))
    tool = ToolSchema(name="f", description="use sk-" + "k" * 40)
    hosted = HostedTool(name="web_search", dialect="responses", declared={"type": "web_search"})

    async def ask(model):
        session = RecordedSession(model)
        said = await session.complete(ModelRequest([ASK], (tool,), hosted=(hosted,)))
        more = [ASK, said.message, {"role": "user", "content": "and?"}]
        await session.complete(ModelRequest(more, (tool,), hosted=(hosted,)))
        return episode(session)

    first = await ask(ScriptedModel([turn, "ok"]))
    assert "kkk" not in first.model_dump_json()
    write(tmp_path / "trajectories.jsonl", first)
    assert await ask(load_model(f"replay:{tmp_path}")) == Trajectory.model_validate_json(
        first.model_dump_json()
    )
    other = RecordedSession(load_model(f"replay:{tmp_path}"))
    with pytest.raises(InputError, match="begins with this prompt"):
        await other.complete(ModelRequest([ASK], (tool,)))


async def test_attempts_get_their_own_episodes():
    sessions = []
    for text in ("one", "two"):
        session = RecordedSession(ScriptedModel([text]))
        await session.complete(ModelRequest([ASK]))
        sessions.append(session)
    both = [episode(s, id=f"e{n}", attempt=n) for n, s in enumerate(sessions)]
    replay = ReplayModel(both)
    named = await RecordedSession(replay, id="t/1").complete(ModelRequest([ASK]))
    other = await RecordedSession(replay).complete(ModelRequest([ASK]))
    assert (named.message["content"], other.message["content"]) == ("two", "one")


async def test_another_result_of_the_environment_is_shown(tmp_path):
    recorded = RecordedSession(model(["x\n</think>\n\nA title", LS, "t\n</think>\n\nDone."]))
    await converse(recorded)
    again = RecordedSession(ReplayModel([episode(recorded)]))
    with pytest.raises(InputError, match=r"was tool …'a.py', now it is tool …'b.py'"):
        await converse(again, result="b.py")
    with pytest.raises(InputError, match="recorded otherwise"):
        await again.complete(ModelRequest([ASK], (BASH,)))
    with pytest.raises(InputError, match="begins with this prompt"):
        await RecordedSession(ReplayModel([episode(recorded)])).complete(
            ModelRequest([{"role": "user", "content": "else"}])
        )


def test_what_cannot_be_replayed_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_model(f"replay:{tmp_path}")
    (tmp_path / "trajectories.jsonl").write_text("{\n")
    with pytest.raises(InputError, match="line 1"):
        load_model(f"replay:{tmp_path}")
    empty = Trajectory(
        id="e", env="e", task="t", task_hash="h", agent="a", verdict=Verdict(reward=0.0)
    )
    write(tmp_path / "trajectories.jsonl", empty)
    with pytest.raises(InputError, match="nothing to replay"):
        load_model(f"replay:{tmp_path}")


async def test_a_script_is_a_file(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(
        "model: me\nturns:\n  - thinking: hm\n    calls: [{name: bash, arguments: {command: ls}}]\n"
        "  - {text: Done., fault: {status: 429, retry_after: 1}}\n"
    )
    session = RecordedSession(load_model(f"scripted:{path}"))
    got = await session.complete(ModelRequest([ASK]))
    assert json.loads(got.message["tool_calls"][0]["function"]["arguments"]) == {"command": "ls"}
    assert got.model == "me"
    path.write_text("turns:\n  - {txet: x}\n")
    with pytest.raises(InputError, match=r"turns.0.txet"):
        load_model(f"scripted:{path}")
    path.write_text("turns: []\n")
    with pytest.raises(InputError, match="turns"):
        load_model(f"scripted:{path}")


async def test_a_script_that_ends_says_so():
    session = RecordedSession(ScriptedModel(["x"]))
    first = await session.complete(ModelRequest([ASK]))
    with pytest.raises(InputError, match="asked for turn 2"):
        await session.complete(ModelRequest([ASK, first.message, ASK]))


def test_an_empty_specification_is_refused():
    with pytest.raises(InputError, match="expected a model"):
        load_model(" ")
