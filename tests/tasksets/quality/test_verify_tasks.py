"""Verification of a small set: what is judged, that it resumes, and what is taken out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets import inject_async
from m2gym.tasksets.injected.inject import Injected
from m2gym.tasksets.quality import verify_tasks
from m2gym.tasksets.quality.grader import Verified, digest_of
from m2gym.tasksets.quality.verified import read_state
from m2gym.tasksets.quality.verify_tasks import prune
from m2gym.tasksets.quality.verify_tasks import verify_tasks as verify
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.swe_repo.tried import dropped
from tests.tasksets.conftest import Index
from tests.tasksets.injected.test_inject import GOOD

MakeBox = Callable[[WorkspaceSpec], Workspace]


async def _made(index: Index, wheels: Cache, monkeypatch: pytest.MonkeyPatch, n: int) -> Injected:
    index.add("tally", "1.0", GOOD)
    taskset = await inject_async("tally", seed=2, n=n, cache=wheels)
    monkeypatch.setattr(verify_tasks, "green_tests", taskset.green)
    return taskset


async def test_tasks_are_judged_with_wrong_and_good_patches(
    index: Index,
    wheels: Cache,
    make_box: MakeBox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taskset = await _made(index, wheels, monkeypatch, 2)
    said: list[str] = []

    def say(what: str, done: int, total: int) -> None:
        said.append(what)

    state = await verify(taskset.recipes, folder=tmp_path, cache=wheels, say=say)
    assert len(said) == 2
    for row in state.values():
        assert row.gold == (1.0,)
        assert row.noop == (0.0,)
        assert row.good
        assert not row.failed
        assert row.wrong
        assert len(row.passed) <= len(row.wrong)
    assert read_state(tmp_path) == state
    again = await verify(taskset.recipes, folder=tmp_path, cache=wheels, say=say)
    assert again == state
    assert len(said) == 2, "what was verified is not verified again"
    name, recipe = next(iter(taskset.recipes.items()))
    reworded = {name: recipe.model_copy(update={"statement": "another"})}
    await verify(reworded, folder=tmp_path, cache=wheels, say=say)
    assert len(said) == 2, "verdicts do not depend on a statement's words"
    changed = {
        name: recipe.model_copy(update={"split": "train" if recipe.split != "train" else "test"})
    }
    await verify(changed, folder=tmp_path, cache=wheels, say=say)
    assert len(said) == 3
    assert len(read_state(tmp_path)) == 2, "others keep their results"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, None),
        ({"gold": (1.0, 0.0)}, "the reference change is not judged 1"),
        ({"noop": (1.0,)}, "doing nothing is not judged 0"),
        ({"wrong": ("a", "b", "c"), "passed": ("a", "b")}, "too many wrong patches pass"),
        ({"wrong": ("a", "b", "c"), "passed": ("a",)}, None),
        ({"wrong": ("a", "b"), "passed": ("a",)}, "too many wrong patches pass"),
        (
            {"wrong": ("part-left-out",), "passed": ("part-left-out",)},
            "too many wrong patches pass",
        ),
        ({"wrong": ("a", "b"), "passed": ("a", "b"), "further": ("c", "d", "e")}, None),
        (
            {"wrong": ("a",), "passed": ("a",), "further": ("b", "c"), "slipped": ("b",)},
            "too many wrong patches pass",
        ),
        ({"wrong": ()}, "no wrong patch is known"),
        ({"good": ()}, "no good patch is known"),
        ({"good": ("reformatted",), "failed": ("reformatted",)}, "a good patch fails"),
        ({"error": "no pytest"}, "cannot be judged"),
    ],
)
def test_what_makes_a_task_unfit(fields: dict[str, object], problem: str | None) -> None:
    known = {"recipe": "x", "gold": (1.0,), "noop": (0.0,), "wrong": ("a",), "good": ("b",)}
    row = Verified.model_validate({**known, **fields})
    assert row.problem == problem


async def test_unfit_tasks_are_taken_out_and_noted(
    index: Index,
    wheels: Cache,
    make_box: MakeBox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taskset = await _made(index, wheels, monkeypatch, 3)
    first, second, third = taskset.recipes.values()
    (tmp_path / "tasks").mkdir()
    both = f"{first.model_dump_json()}\n{second.model_dump_json()}\n"
    (tmp_path / "tasks/tally-injected.jsonl").write_text(both)
    (tmp_path / "tasks/one.json").write_text(third.model_dump_json())
    fine = Verified(recipe="x", gold=(1.0,), noop=(0.0,), wrong=("a",), good=("b",))
    unfit = fine.model_copy(update={"gold": (0.0,)})
    state = {first.id: unfit, second.id: fine, third.id: unfit}
    assert prune(taskset.recipes, state, tmp_path) == sorted([first.id, third.id])
    left = (tmp_path / "tasks/tally-injected.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in left] == [second.id]
    assert not (tmp_path / "tasks/one.json").exists()
    assert dropped(tmp_path)[first.id] == ["injected-bug", "the reference change is not judged 1"]


async def test_a_hash_is_of_all_that_verdicts_depend_on(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    index.add("tally", "1.0", GOOD)
    taskset = await inject_async("tally", seed=2, n=1, cache=wheels)
    [recipe] = taskset.recipes.values()
    green = taskset.green(recipe.green)
    assert digest_of(recipe, green) != digest_of(recipe, green[1:])
    slower = recipe.model_copy(update={"seconds": 99.0})
    assert digest_of(recipe, green) == digest_of(slower, green)
