"""``m2gym export`` and ``m2gym list backends``, as typed."""

import json

import pytest

from tests.cli.test_commands import m2gym, place  # noqa: F401

SCRIPT = """
turns:
  - {text: look, calls: [{name: bash, arguments: {command: ls}}]}
  - {text: done}
"""


@pytest.fixture(scope="module")
def run_folder(place):  # noqa: F811
    """A run whose trajectories hold model calls, written as evaluations write them."""
    import asyncio

    from m2gym.core.protocols import ModelRequest
    from m2gym.core.trajectory import Trajectory
    from m2gym.core.verdict import Verdict
    from m2gym.models import RecordedSession, load_model
    from m2gym.rollout.run_folder import RunWriter
    from m2gym.rollout.run_info import RunConfig, new_info

    folder = place[0] / "talks"
    (place[0] / "script.yaml").write_text(SCRIPT)
    session = RecordedSession(load_model(f"scripted:{place[0] / 'script.yaml'}"))
    ask = {"role": "user", "content": "go"}
    asyncio.run(session.complete(ModelRequest([ask])))
    info = new_info(RunConfig(env="tiny", agent="react", tasks=("a/b c",)), {"a/b c": "h"})
    record = Trajectory(
        id="ep/1", env="tiny", task="a/b c", task_hash="h", agent="react",
        completions=tuple(session.completions), usage=session.usage, verdict=Verdict(reward=0.5),
    )  # fmt: skip
    with RunWriter(folder, info) as writer:
        writer.append(record)
    return folder


def test_export_writes_atif_beside_the_run(m2gym, run_folder):  # noqa: F811
    done = m2gym("export", str(run_folder), "--json")
    told = json.loads(done.stdout)
    assert told == {"format": "atif", "path": f"{run_folder}-atif", "written": 1}
    (file,) = run_folder.with_name("talks-atif").iterdir()
    assert file.name == "a_b_c.0.ep_1.json"
    document = json.loads(file.read_text())
    assert document["steps"][1]["tool_calls"][0]["function_name"] == "bash"


def test_export_writes_parquet_where_it_is_told(m2gym, run_folder, tmp_path):  # noqa: F811
    pq = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "x.parquet"
    m2gym("export", str(run_folder), "-f", "parquet", "-o", str(target))
    assert pq.read_table(target).to_pylist()[0]["reward"] == 0.5


def test_export_refuses_in_words(m2gym, run_folder, tmp_path):  # noqa: F811
    assert "jsonl" in m2gym("export", "--help").stdout
    refused = m2gym("export", str(run_folder), "-f", "csv", code=1).stderr
    assert "known: atif, harbor, inspect, jsonl, parquet" in refused
    assert "not a run folder" in m2gym("export", str(tmp_path), code=1).stderr
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = m2gym("export", str(run_folder), "-o", str(blocked / "x"), code=1)
    assert "cannot write to" in done.stderr


def test_list_shows_the_backends(m2gym):  # noqa: F811
    rows = {r["id"]: r["about"] for r in json.loads(m2gym("list", "backends", "--json").stdout)}
    assert "scripted:FILE" in rows["scripted"]
    assert "replay:RUN" in rows["replay"]
    assert "LiteLLM" in rows["litellm"]
    assert "vLLM" in rows["openai-compatible"]
