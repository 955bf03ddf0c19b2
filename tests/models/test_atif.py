"""ATIF: documents that Harbor's own model accepts, with nothing lost; and Parquet."""

import importlib
import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from m2gym.core.protocols import ModelRequest
from m2gym.core.trajectory import Step, Trajectory
from m2gym.core.verdict import Score, Verdict
from m2gym.models.atif import to_atif
from m2gym.models.parquet import COLUMNS, write_parquet
from m2gym.models.scripted import Call, Hosted, ScriptedModel, Turn
from m2gym.models.session import RecordedSession
from m2gym.models.tokens import full_prompt
from tests.conftest import require
from tests.models.test_replay import converse
from tests.models.test_token_model import ASK, BASH, LS, model

PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def trajectory(session=None, steps=(), **fields):
    completions = tuple(session.completions) if session else ()
    return Trajectory(
        id="e1", env="swe", task="t", task_hash="h", agent="react", steps=tuple(steps),
        completions=completions, usage=session.usage if session else {},
        verdict=Verdict(reward=1.0, scores={"s": Score(value=1.0)}), **fields,
    )  # fmt: skip


async def token_session():
    session = RecordedSession(model(["x\n</think>\n\nA title", LS, "t\n</think>\n\nDone."]))
    await converse(session)
    return session


async def odd_session():
    """Images, free-form and broken calls, stray results, rewritten history, late system turns."""
    turns = [
        Turn(
            text="Two.",
            calls=(
                Call(name="patch", input="*** Begin"),
                Call(name="bash", arguments='{"broken": '),
            ),
        ),
        Turn(text="Then.", hosted=(Hosted(name="web_search", input={"query": "a"}),)),
    ]
    session = RecordedSession(ScriptedModel(turns))
    ask = {"role": "user", "content": [{"type": "text", "text": "see"}, PNG]}
    first = await session.complete(ModelRequest([ask], (BASH,)))
    ids = [call["id"] for call in first.message["tool_calls"]]
    results = [{"role": "tool", "tool_call_id": id, "content": id} for id in (*ids, "stray")]
    late = {"role": "system", "content": "be quick"}
    await session.complete(ModelRequest([ask, first.message, *results, late], (BASH,)))
    made_up = {"role": "assistant", "content": "I said", "reasoning_content": "never"}
    await session.complete(ModelRequest([ask, made_up, ASK], (BASH,)))
    return session


async def test_the_main_line_is_the_document_and_others_are_embedded():
    session = await token_session()
    document = to_atif(trajectory(session))
    assert document["schema_version"] == "ATIF-v1.8"
    assert [s["source"] for s in document["steps"]] == ["user", "agent", "agent"]
    one, two = document["steps"][1:]
    assert one["tool_calls"][0]["arguments"] == {"command": "ls  -la"}
    assert one["reasoning_content"] == "I look."
    assert one["observation"]["results"] == [{"content": "a.py", "source_call_id": "call_1_0"}]
    assert tuple(two["metrics"]["completion_token_ids"]) == session.completions[2].response_ids
    assert two["extra"]["m2gym"]["parent"] == 1
    assert two["metrics"]["prompt_tokens"] == session.completions[2].usage.prompt_tokens
    assert document["extra"]["m2gym"]["verdict"]["reward"] == 1.0
    assert document["agent"]["tool_definitions"] == [BASH.openai()]
    (aside,) = document["subagent_trajectories"]
    assert aside["steps"][-1]["message"] == "A title"
    assert aside["extra"]["m2gym"]["line"] == "auxiliary"


async def test_whole_prompts_on_demand():
    session = await token_session()
    steps = to_atif(trajectory(session), prompts=True)["steps"]
    assert steps[2]["metrics"]["prompt_token_ids"] == full_prompt(session.completions, 2)
    assert "prompt_ids_after_parent" not in steps[2]["extra"]["m2gym"]


def test_an_episode_without_a_model_shows_its_steps():
    steps = [
        Step(action="ls", observation="a.py"),
        Step(action={"name": "read", "arguments": {"path": "a.py"}}, observation="x", reward=0.5),
    ]
    document = to_atif(trajectory(steps=steps))
    assert [s["tool_calls"][0]["function_name"] for s in document["steps"]] == ["bash", "read"]
    assert document["steps"][1]["extra"]["m2gym"]["reward"] == 0.5
    assert "did nothing" in to_atif(trajectory())["steps"][0]["message"]


HARBOR = "harbor==0.25.0"


@pytest.fixture
def harbor_model(tmp_path):
    """Harbor's own pydantic model, from a folder (``M2GYM_HARBOR``) or fetched by pip.

    Harbor wants Python 3.12 as a whole, its trajectory models do not: they are loaded alone.
    """
    folder = Path(os.environ.get("M2GYM_HARBOR", tmp_path))
    if folder == tmp_path:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        done = subprocess.run([*fetch, "--ignore-requires-python", HARBOR], capture_output=True)
        require("registry", done.returncode == 0, f"cannot fetch {HARBOR}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)
    for name, where in (("harbor", "harbor"), ("harbor.models", "harbor/models")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / where)]
        sys.modules[name] = package
    yield importlib.import_module("harbor.models.trajectories").Trajectory
    for name in [name for name in sys.modules if name.split(".")[0] == "harbor"]:
        del sys.modules[name]


@pytest.mark.heavy
async def test_harbors_model_accepts_every_document(harbor_model):
    tokens, odd = await token_session(), await odd_session()
    documents = [
        to_atif(trajectory(tokens)),
        to_atif(trajectory(tokens, model="m"), prompts=True, agent_version="1.0"),
        to_atif(trajectory(odd)),
        to_atif(trajectory()),
        to_atif(trajectory(steps=[Step(action="ls", observation="x")])),
    ]
    for document in documents:
        text = json.dumps(document)
        parsed = harbor_model.model_validate_json(text)
        assert parsed.to_json_dict() == json.loads(text)


async def test_odd_turns_are_kept():
    document = to_atif(trajectory(await odd_session()))
    steps = document["steps"]
    assert steps[0]["message"][1]["source"]["media_type"] == "image/png"
    calls = steps[1]["tool_calls"]
    assert calls[0]["extra"] == {"free_form": True}
    assert calls[1]["extra"] == {"malformed": True}
    results = steps[1]["observation"]["results"]
    assert [r.get("source_call_id") for r in results] == [c["tool_call_id"] for c in calls] + [None]
    assert steps[2] == {"step_id": 3, "source": "system", "message": "be quick"}
    (rewritten,) = document["subagent_trajectories"]
    assert rewritten["extra"]["m2gym"]["line"] == "main"
    assert rewritten["steps"][1]["llm_call_count"] == 0


async def test_parquet_has_a_row_a_completion(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    session = await token_session()
    path = tmp_path / "run.parquet"
    assert write_parquet([trajectory(session), trajectory()], path, rows=2) == 4
    table = pq.read_table(path)
    assert table.column_names == list(COLUMNS)
    rows = table.to_pylist()
    assert [row["parent"] for row in rows] == [None, None, 1, None]
    assert [row["completion"] for row in rows] == [0, 1, 2, None]
    assert tuple(rows[2]["response_ids"]) == session.completions[2].response_ids
    assert rows[2]["logprobs"] == pytest.approx(session.completions[2].logprobs)
    assert json.loads(rows[2]["message"]) == session.completions[2].message
    assert rows[3]["reward"] == 1.0
