"""Faults that meet in one function become tasks of their own where the table names their tests."""

from __future__ import annotations

import pytest

from m2gym.tasksets import version_diff_async
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.swe_repo.recipe import ChangeSpec
from m2gym.tasksets.swe_repo.shipped import recipes
from m2gym.tasksets.swe_repo.tried import of_step
from m2gym.tasksets.version_diffs.apart import FAULTS, by_fault
from m2gym.tasksets.version_diffs.split import Part
from tests.tasksets.conftest import Index

OLD = (
    "def label(n, unit):\n    n = n + 1 if n > 2 else n\n    n = abs(n)\n    return f'{n}{unit}'\n"
)
NEW = OLD.replace("n > 2", "n >= 2").replace("{n}{unit}", "{n} {unit}")
TESTS = (
    "from tiny import label\n"
    "def test_number(): assert label(2, 'm').startswith('3')\n"
    "def test_unit(): assert label(1, 'm') == '1 m'\n"
    "def test_sign(): assert label(-5, '')[0] == '5'\n"
)


async def test_two_faults_in_one_function_are_two_tasks_by_the_table(
    index: Index, wheels: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = [["tests/test_label.py::test_number"], ["tests/test_label.py::test_unit"]]
    monkeypatch.setitem(FAULTS, "tiny-1.1", tests)
    index.add("tiny", "1.0", {"tiny/__init__.py": OLD, "tests/test_label.py": "def test(): pass\n"})
    index.add("tiny", "1.1", {"tiny/__init__.py": NEW, "tests/test_label.py": TESTS})
    found = await version_diff_async("tiny", "1.0", "1.1", runs=2, cache=wheels)
    assert list(found.recipes) == ["tiny-1.1a", "tiny-1.1b"]
    number, unit = found.recipes.values()
    assert [list(recipe.fail_to_pass) for recipe in (number, unit)] == tests
    assert number.part == (ChangeSpec(path="tiny/__init__.py", hunks=(0,)),)
    assert unit.part == (ChangeSpec(path="tiny/__init__.py", hunks=(1,)),)
    assert number.not_kept == unit.fail_to_pass
    assert all(of_step(task, "tiny", "1.1") for task in found.recipes)


def test_a_part_of_one_fault_stays_whole() -> None:
    part = Part(("a.py::x[1]", "a.py::other"), ((),))
    assert by_fault(part, [["a.py::x"], ["a.py::y"]]) == [part]
    assert by_fault(part, []) == [part]


def test_tests_of_no_fault_stay_with_the_first() -> None:
    part = Part(("a.py::other", "a.py::y", "a.py::x"), ((),))
    parts = by_fault(part, [["a.py::x"], ["a.py::y"]])
    assert [one.fail_to_pass for one in parts] == [("a.py::other", "a.py::x"), ("a.py::y",)]


@pytest.mark.parametrize("step", FAULTS)
def test_each_fault_of_the_table_is_a_shipped_task(step: str) -> None:
    package, _, new = step.rpartition("-")
    shown = [
        {test.partition("[")[0] for test in recipe.fail_to_pass}
        for recipe in recipes().values()
        if recipe.fixed is not None and of_step(recipe.id, package, new)
    ]
    assert all(set(tests) in shown for tests in FAULTS[step])
