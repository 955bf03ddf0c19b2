"""An old run still opens, is resumed, and then is refused by the m2gym that wrote it."""

import hashlib
import json

import pytest

from m2gym.core.errors import InputError
from m2gym.core.trajectory import SCHEMA_VERSION
from m2gym.rollout.migrate import RECORD, migrate
from m2gym.rollout.run import load_run
from m2gym.rollout.run_folder import RECORDS, RunWriter


def old_line(record, **more):
    data = json.loads(record.model_dump_json())
    for key in ("waited", "cause", "retries"):
        del data[key]
    data.update({"schema_version": 1, **more})
    body = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-1]},"sha256":"{digest}"}}\n'


@pytest.fixture
def old(tmp_path, record, info):
    """A folder as version 1 wrote it: one graded episode, one lost."""
    data = json.loads(info().model_dump_json())
    data["schema_version"] = 1
    del data["config"]["limits"]
    (tmp_path / "run.json").write_text(json.dumps(data))
    lost = record("b", status="infra_error", reward=None)
    lines = old_line(record("a")) + old_line(lost, error="WorkspaceLostError: gone")
    (tmp_path / RECORDS).write_text(lines)
    return tmp_path


def test_it_opens(old):
    run = load_run(old)
    assert run.info.schema_version == SCHEMA_VERSION
    episodes = {e.task: e for e in run}
    assert (episodes["a"].verdict.reward, episodes["b"].cause) == (1, "box")
    assert all(e.schema_version == SCHEMA_VERSION for e in episodes.values())
    assert json.loads((old / "run.json").read_text())["schema_version"] == 1


def test_it_is_resumed_beside_its_old_lines(old, record, info):
    with RunWriter(old, info(), resume=True) as writer:
        assert writer.done == {("a", 0)}
        writer.append(record("b"))
    assert json.loads((old / "run.json").read_text())["schema_version"] == SCHEMA_VERSION
    assert {e.task: e.verdict.reward for e in load_run(old)} == {"a": 1, "b": 1}


def test_a_newer_record_asks_for_an_upgrade():
    with pytest.raises(InputError, match="upgrade m2gym"):
        migrate({"schema_version": SCHEMA_VERSION + 1}, RECORD)
