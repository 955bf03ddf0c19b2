"""Harbor-format task folders as a taskset.

A folder with a ``task.toml`` is one task; any other folder is searched for such folders. The local
workspace has no container images, so what needs one (a base image's own content, ``RUN`` …) is
refused by the field's name; `harbor` says which fields are understood.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import PreparedTask, Reference, RewardSpec, Split, Task, WorkspaceSpec
from m2gym.rewards.script import HIDDEN, LINKS, PLACE
from m2gym.tasksets.cache import Cache, key_of, tree_digest
from m2gym.tasksets.dockerfile import Build, read_dockerfile
from m2gym.tasksets.harbor import Settings, read_settings
from m2gym.tasksets.measure import pack
from m2gym.tasksets.memory import copied, copy

_TESTS_PARAMETERS = ("fail_to_pass", "pass_to_pass", "command", "test_files", "timeout", "python")


@dataclass(frozen=True)
class _Folder:
    path: Path
    settings: Settings
    build: Build
    task: Task


class FolderTaskset:
    """The Harbor tasks below ``path``, by folder name; all are read (and refused) at once.

    ``rewards`` replaces the task's own script; parameters of ``tests-pass`` and
    ``tests-fraction`` are then taken from the task's ``[metadata]``. A ``split`` there puts a task
    in one split; without it the task is in both.

    Raises:
        InputError: a folder or field cannot be used; the message names it.
    """

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        rewards: Sequence[RewardSpec] = (),
        cache: Cache | None = None,
    ) -> None:
        root = Path(path)
        if not root.is_dir():
            raise InputError(f"expected a folder of tasks, {str(path)!r} is none")
        self.name = name or root.resolve().name
        self.cache = cache or Cache()
        found = [root] if (root / "task.toml").exists() else sorted(_below(root))
        if not found:
            raise InputError(f"no task.toml in {str(path)!r} or in the folders below it")
        self._folders: dict[str, _Folder] = {}
        for folder in found:
            task_id = folder.resolve().name if folder == root else str(folder.relative_to(root))
            self._folders[task_id] = _read(folder, task_id, rewards)

    def ids(self, split: Split) -> Sequence[str]:
        """Ids of one split, in alphabetical order."""
        return [
            name
            for name, folder in self._folders.items()
            if folder.task.metadata.get("split") in (None, split)
        ]

    def task(self, task_id: str) -> Task:
        """The task.

        Raises:
            UnknownIdError: there is no such task; the message names the nearest.
        """
        if task_id not in self._folders:
            raise UnknownIdError(f"task of {self.name}", task_id, self._folders)
        return self._folders[task_id].task

    def prepare(self, task: Task) -> PreparedTask:
        """The task's files, copied into the cache by content."""
        self.task(task.id)
        folder = self._folders[task.id]
        spec = WorkspaceSpec(
            root=self._root(folder),
            workdir=folder.build.workdir,
            links=dict(LINKS),
            env={**folder.build.env, **task.env},
            network=task.network,
            limits=task.limits,
        )
        return PreparedTask(task, spec, self._hidden(folder), _reference(folder))

    def _root(self, folder: _Folder) -> Path | None:
        if not folder.build.copies:
            return None
        digests = [
            (source.name, tree_digest(source) if source.is_dir() else source.read_bytes().hex())
            for source, _ in folder.build.copies
        ]
        targets = [target for _, target in folder.build.copies]
        return self.cache.folder("files", key_of("build", digests, targets), folder.build.make)

    def _hidden(self, folder: _Folder) -> Path:
        tests = copied(self.cache, folder.path / "tests")
        if any(spec.name == "test-script" for spec in folder.task.rewards):
            inner = f"{HIDDEN}/tests"
        else:
            inner = "tests"

        def build(target: Path) -> None:
            (target / inner).parent.mkdir(parents=True, exist_ok=True)
            copy(tests, target / inner)

        return self.cache.folder("files", key_of("hidden", inner, tests.parent.name), build)


def _below(root: Path) -> list[Path]:
    return [p.parent for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}/task.toml")]


def _read(folder: Path, task_id: str, rewards: Sequence[RewardSpec]) -> _Folder:
    settings = read_settings(folder / "task.toml")
    for needed in ("instruction.md", "tests"):
        if not (folder / needed).exists():
            raise InputError(f"{folder}: a task folder holds {needed}, this one does not")
    if not rewards and not (folder / "tests" / "test.sh").exists():
        raise InputError(f"{folder}: a task folder holds tests/test.sh, this one does not")
    build = read_dockerfile(folder / "environment", settings.workdir)
    chosen = tuple(_with_parameters(spec, settings) for spec in rewards) or (
        RewardSpec(
            name="test-script",
            parameters={"env": settings.verifier_env, "timeout": settings.limits.grade_seconds},
        ),
    )
    task = Task(
        id=task_id,
        instruction=(folder / "instruction.md").read_text(encoding="utf-8"),
        rewards=chosen,
        limits=settings.limits,
        network=settings.network,
        env=settings.env,
        metadata=settings.metadata,
    )
    return _Folder(folder, settings, build, task)


def _with_parameters(spec: RewardSpec, settings: Settings) -> RewardSpec:
    if spec.name not in ("tests-pass", "tests-fraction"):
        return spec
    own = {k: settings.metadata[k] for k in _TESTS_PARAMETERS if k in settings.metadata}
    return spec.model_copy(update={"parameters": {**own, **spec.parameters}})


def _reference(folder: _Folder) -> Reference | None:
    solution = folder.path / "solution"
    if not (solution / "solve.sh").exists():
        return None
    packed = base64.b64encode(pack(solution)).decode()
    exports = [f"export {k}={shlex.quote(v)}" for k, v in folder.settings.solution_env.items()]
    lines = [
        "set -e",
        f"mkdir -p {PLACE}/solution",
        f"base64 -d <<'END' | tar -x -C {PLACE}/solution\n{packed}\nEND",
        *exports,
        "bash /solution/solve.sh",
    ]
    return Reference(script="\n".join(lines))
