from pathlib import Path
from typing import Any

import pytest

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import Task
from m2gym.tasksets.memory import ListTaskset
from m2gym.tasksets.registry.cache import Cache


def _task(task_id: str, **fields: Any) -> Task:
    return Task(id=task_id, instruction="do it", **fields)


def test_tasks_are_in_both_splits_unless_they_say_so(cache: Cache) -> None:
    tasks = [_task("b"), _task("a", metadata={"split": "train"}), _task("c")]
    taskset = ListTaskset("mine", tasks, cache=cache)
    assert taskset.ids("train") == ["b", "a", "c"]
    assert taskset.ids("test") == ["b", "c"]
    assert taskset.task("a") is tasks[1]
    with pytest.raises(UnknownIdError):
        taskset.task("d")


def test_bad_lists_are_refused(cache: Cache) -> None:
    with pytest.raises(InputError, match="two tasks with the id 'a'"):
        ListTaskset("mine", [_task("a"), _task("a")], cache=cache)
    with pytest.raises(InputError, match="got 'dev'"):
        ListTaskset("mine", [_task("a", metadata={"split": "dev"})], cache=cache)


def test_texts_become_files(cache: Cache) -> None:
    task = _task("a", files={"x/y.txt": "hi"}, env={"A": "b"}, metadata={"hidden": {"t": "h"}})
    prepared = ListTaskset("mine", [task], cache=cache).prepare(task)
    root, hidden = prepared.workspace.root, prepared.hidden
    assert root is not None
    assert hidden is not None
    assert (root / "x/y.txt").read_text() == "hi"
    assert (hidden / "t").read_text() == "h"
    assert prepared.workspace.env == {"A": "b"}
    assert prepared.workspace.mounts == ()


def test_a_folder_is_copied_and_copied_again_when_it_changes(cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "repo"
    source.mkdir()
    (source / "run.sh").write_text("1")
    (source / "run.sh").chmod(0o755)
    task = _task("a", files=str(source))
    taskset = ListTaskset("mine", [task], cache=cache)
    first = taskset.prepare(task).workspace.root
    assert taskset.prepare(task).workspace.root == first
    (source / "run.sh").write_text("22")
    second = taskset.prepare(task).workspace.root
    assert first is not None
    assert second is not None
    assert (first / "run.sh").read_text() == "1"
    assert (second / "run.sh").read_text() == "22"
    assert (second / "run.sh").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["../x", "/x", ""])
def test_paths_outside_the_work_folder_are_refused(cache: Cache, path: str) -> None:
    task = _task("a", files={path: "hi"})
    with pytest.raises(InputError, match="relative to the work folder"):
        ListTaskset("mine", [task], cache=cache).prepare(task)


def test_an_absent_folder_is_named(cache: Cache) -> None:
    task = _task("a", files="/no/such/folder")
    with pytest.raises(InputError, match="'/no/such/folder' is none"):
        ListTaskset("mine", [task], cache=cache).prepare(task)
