"""Tasks given as objects: `m2gym.register("my-env", tasks=[Task(...), ...])`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import Mount, PreparedTask, Split, Task, WorkspaceSpec
from m2gym.tasksets.registry import site
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent, tree_digest
from m2gym.tasksets.registry.pinned import PYTEST, pinned
from m2gym.tasksets.registry.site import WORKDIR

Files = str | Mapping[str, str]


class ListTaskset:
    """Named tasks in the order given.

    A task's ``metadata["split"]`` (``train`` or ``test``) puts it in one split, without it the task
    is in both. ``metadata["hidden"]``, a folder or path → text, is laid over the work folder when
    the task is graded. Tasks judged by ``tests-pass`` or ``tests-fraction`` find pytest in the box.

    Raises:
        InputError: two tasks share an id, or a split has another name.
    """

    def __init__(
        self,
        name: str,
        tasks: Iterable[Task],
        *,
        cache: Cache | None = None,
        progress: Progress = silent,
    ) -> None:
        self.name = name
        self.cache = cache or Cache()
        self.progress = progress
        self._tasks: dict[str, Task] = {}
        self._seen: dict[str, tuple[str, Path]] = {}
        for task in tasks:
            if task.id in self._tasks:
                raise InputError(f"taskset {name!r} has two tasks with the id {task.id!r}")
            split = task.metadata.get("split")
            if split not in (None, "train", "test"):
                raise InputError(f"task {task.id!r}: split is train or test, got {split!r}")
            self._tasks[task.id] = task

    def ids(self, split: Split) -> Sequence[str]:
        """Ids of one split, in the order given."""
        return [i for i, t in self._tasks.items() if t.metadata.get("split") in (None, split)]

    def task(self, task_id: str) -> Task:
        """The task.

        Raises:
            UnknownIdError: there is no such task; the message names the nearest.
        """
        if task_id not in self._tasks:
            raise UnknownIdError(f"task of {self.name}", task_id, self._tasks)
        return self._tasks[task_id]

    def prepare(self, task: Task) -> PreparedTask:
        """The task's files, copied into the cache by content.

        Raises:
            InputError: its folder is absent, or a path leaves the work folder.
        """
        hidden = task.metadata.get("hidden")
        root = None if task.files is None else self._folder(task.id, "files", task.files)
        laid_over = None if hidden is None else self._folder(task.id, "hidden", hidden)
        mounts, env = pytest_box(task, WORKDIR, self.cache, self.progress)
        spec = WorkspaceSpec(
            root=root,
            workdir=WORKDIR,
            mounts=mounts,
            env={**env, **task.env},
            network=task.network,
            limits=task.limits,
        )
        return PreparedTask(task, spec, laid_over, None)

    def _folder(self, task_id: str, what: str, files: Any) -> Path:
        where = f"task {task_id!r}: {what}"
        if isinstance(files, Mapping):
            return self._of_texts(where, files)
        if not isinstance(files, str | Path):
            raise InputError(f"{where} is a folder or path → text, got {type(files).__name__}")
        return self._of_folder(where, Path(files))

    def _of_texts(self, where: str, files: Mapping[str, str]) -> Path:
        for path in files:
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or not pure.parts:
                raise InputError(f"{where}: paths are relative to the work folder, got {path!r}")

        def build(folder: Path) -> None:
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8")

        return self.cache.folder("files", key_of("texts", dict(files)), build)

    def _of_folder(self, where: str, source: Path) -> Path:
        if not source.is_dir():
            raise InputError(f"{where}: expected a folder, {str(source)!r} is none")
        state = key_of("state", *_stats(source))
        known = self._seen.get(str(source))
        if known and known[0] == state:
            return known[1]
        copy = copied(self.cache, source)
        self._seen[str(source)] = (state, copy)
        return copy


def pytest_box(
    task: Task, workdir: str, cache: Cache, progress: Progress = silent
) -> tuple[tuple[Mount, ...], dict[str, str]]:
    """Mounts and variables with which a task judged by pytest finds it; none for other tasks."""
    if not any(spec.name in ("tests-pass", "tests-fraction") for spec in task.rewards):
        return (), {}
    table = pinned()
    packages = site.site_folder([table[name] for name in PYTEST], cache, progress)
    mounts = (*site.interpreter_mounts(), Mount(source=packages, target=site.TARGET))
    return mounts, site.box_environment([workdir])


def copied(cache: Cache, source: Path) -> Path:
    """A copy of a folder, kept in the cache by its content."""
    return cache.folder("files", key_of("folder", tree_digest(source)), lambda t: copy(source, t))


def copy(source: Path, target: Path) -> None:
    """Copy a folder's content, links as links, modes and times kept."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def _stats(source: Path) -> Iterable[tuple[str, int, int, int]]:
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            status = Path(folder, name).lstat()
            yield str(Path(folder, name)), status.st_size, status.st_mtime_ns, status.st_mode
