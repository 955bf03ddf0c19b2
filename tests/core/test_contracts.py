"""Tasks, verdicts, tools, artifacts, spaces and the registry refuse what they cannot mean."""

from __future__ import annotations

import hashlib
import io
import json
import math

import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from m2gym.core.artifacts import Artifacts, opener
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.registry import Registry
from m2gym.core.spaces import SAMPLE_COMMANDS, AnyText, CommandOrToolCall
from m2gym.core.task import Limits, RewardSpec, Task, WorkspaceSpec
from m2gym.core.tools import Tool, Toolbox
from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Score, Verdict


def test_a_task_names_the_field_it_does_not_know():
    with pytest.raises(ValidationError, match="instructions"):
        Task(id="t", instruction="x", instructions="y")


@pytest.mark.parametrize("path", ["/", "../up", "a/../../b", "/a/../b"])
def test_artifacts_are_plain_paths(path):
    with pytest.raises(ValidationError, match=r"a path without '\.\.', and not '/'"):
        Task(id="t", instruction="x", artifacts=(path,))


def test_a_hash_of_before_a_field_came_is_the_same_at_its_default():
    before = {"id": "t", "instruction": "x", "files": None, "rewards": [], "artifacts": ["."],
              "limits": Limits().model_dump(mode="json"), "network": "none", "env": {},
              "metadata": {}}  # fmt: skip
    text = json.dumps(before, sort_keys=True).encode()
    task = Task(id="t", instruction="x")
    assert task.content_hash() == hashlib.sha256(text).hexdigest()
    assert task.model_copy(update={"isolation": "shared"}).content_hash() != task.content_hash()


def test_the_work_folder_is_absolute_and_not_the_root():
    for wrong in ("relative", "/"):
        with pytest.raises(ValidationError, match="absolute"):
            WorkspaceSpec(workdir=wrong)


def test_a_task_survives_json_and_its_hash_sees_every_field():
    task = Task(
        id="t",
        instruction="x",
        rewards=(RewardSpec(name="r", parameters={"a": [1]}),),
        limits=Limits(steps=3),
    )
    again = Task.model_validate_json(task.model_dump_json())
    assert again == task
    assert again.content_hash() == task.content_hash()
    other = task.model_copy(update={"limits": Limits(steps=4)})
    assert other.content_hash() != task.content_hash()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_is_finite(value):
    with pytest.raises(ValidationError, match="finite"):
        Score(value=value)


def test_a_verdict_has_a_reward_exactly_when_it_was_graded():
    assert Verdict(reward=0.5).graded
    assert not Verdict(reward=None, status="infra_error").graded
    for status in ("infra_error", "verifier_error", "cancelled"):
        with pytest.raises(ValidationError, match="no reward"):
            Verdict(reward=0.0, status=status)
    for status in ("ok", "agent_error"):
        with pytest.raises(ValidationError, match="finite reward"):
            Verdict(reward=None, status=status)
    with pytest.raises(ValidationError, match="forged"):
        Verdict(reward=1.0, status="forged")


def test_a_trajectory_survives_json():
    record = Trajectory(
        id="1", env="e", task="t", task_hash="h", agent="a", verdict=Verdict(reward=1.0)
    )
    assert Trajectory.model_validate_json(record.model_dump_json()) == record


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def test_a_tool_is_described_and_checked_from_its_signature():
    tool = Tool(add)
    described = tool.schema.openai()["function"]
    assert described["name"] == "add"
    assert described["description"] == "Add two numbers."
    assert described["parameters"]["required"] == ["a"]
    assert described["parameters"]["properties"]["b"] == {"type": "integer", "default": 2}
    assert add(**tool.bind({"a": "3"})) == 5
    with pytest.raises(InputError, match=r"'add': b: .*integer"):
        tool.bind({"a": 1, "b": "x"})
    with pytest.raises(InputError, match="c: Extra inputs"):
        tool.bind({"a": 1, "c": 1})
    with pytest.raises(UnknownIdError, match="did you mean 'add'"):
        Toolbox([tool]).get("ad")


def test_artifacts_open_by_suffix():
    files = Artifacts(
        {
            "a.json": b'{"x": 1}',
            "a.jsonl": b'{"x": 1}\n\n{"x": 2}\n',
            "a.csv": b"\xef\xbb\xbfk,v\n1,2\n",
            "a.patch": b"--- a/f.py\n+++ b/f.py\n@@ -1 +1 @@\n-old\n+new\n"
            b"--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n",
            "note": b"\xffhi",
        }
    )
    assert files.open("a.json") == {"x": 1}
    assert files.open("a.jsonl") == [{"x": 1}, {"x": 2}]
    assert files.open("a.csv") == [{"k": "1", "v": "2"}]
    assert files.open("a.patch") == {"f.py": ["-old", "+new"], "gone": ["-x"]}
    assert files.open("note").encode("utf-8", "surrogateescape") == b"\xffhi"
    with pytest.raises(InputError, match="does not parse"):
        Artifacts({"b.json": b"{"}).open("b.json")
    with pytest.raises(KeyError, match="there are"):
        files.open("b.json")


def test_a_workbook_opens_with_its_values():
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active["A1"] = 42
    data = io.BytesIO()
    book.save(data)
    assert Artifacts({"a.xlsx": data.getvalue()}).open("a.xlsx").active["A1"].value == 42


def test_an_opener_of_ones_own():
    @opener(".rev")
    def reverse(data: bytes) -> bytes:
        return data[::-1]

    assert Artifacts({"x.rev": b"abc"}).open("x.rev") == b"cba"
    with pytest.raises(InputError, match="starts with a dot"):
        opener("rev")(reverse)


def test_a_registry_resolves_import_strings_late_and_names_the_nearest():
    things: Registry[object] = Registry("thing", "m2gym.test-things")
    things.register("late", "no_such_module:value")
    things.register("join", "posixpath:join")
    assert things.names() == ["join", "late"]
    assert things.get("join")("a", "b") == "a/b"
    with pytest.raises(ModuleNotFoundError):
        things.get("late")
    with pytest.raises(UnknownIdError, match="unknown thing 'jon'; did you mean 'join'"):
        things.get("jon")
    with pytest.raises(InputError, match="without spaces"):
        things.register("two words", 1)

    @things.decorator("made")
    def made() -> int:
        return 1

    assert things.get("made") is made


@given(st.text())
def test_any_text_is_any_text(text):
    assert AnyText().contains(text)


def test_spaces_sample_what_they_contain_and_survive_json():
    tools = [Tool(add).schema]
    for space in (AnyText(seed=1), CommandOrToolCall(tools, seed=1)):
        samples = [space.sample() for _ in range(20)]
        assert all(space.contains(sample) for sample in samples)
        assert space.from_jsonable(space.to_jsonable(samples)) == samples
        assert len(set(samples)) > 1
    first, second = AnyText(seed=3), AnyText(seed=3)
    assert data_equivalence([first.sample()], [second.sample()])
    assert AnyText() == AnyText()
    assert not AnyText().contains(b"bytes")


def test_actions_are_commands_or_calls_of_listed_tools():
    space = CommandOrToolCall([Tool(add).schema])
    assert set(SAMPLE_COMMANDS) >= {space.sample() for _ in range(50)}
    assert space.contains("rm -rf /tmp/x")
    assert space.contains({"name": "add", "arguments": {"a": 1}})
    for wrong in (
        {"name": "add"},
        {"name": "add", "arguments": {"a": 1, "z": 1}},
        {"name": "sub", "arguments": {"a": 1}},
        {"name": "add", "arguments": {"a": 1}, "id": 3},
        {"name": "add", "arguments": [1]},
        3,
        None,
    ):
        assert not space.contains(wrong)
    assert space == CommandOrToolCall([Tool(add).schema])
    assert space != CommandOrToolCall()
