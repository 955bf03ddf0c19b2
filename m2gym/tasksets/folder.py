"""Harbor-format task folders as a taskset.

A folder with a ``task.toml`` is one task; any other folder is searched for such folders. A task
whose Dockerfile does no more than copy files runs in any workspace; one that needs an image
(``docker_image``, ``RUN`` …) says so in its metadata, ``needs_image``, and is refused by workspaces
without images. `harbor` says which fields are understood.
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
from m2gym.tasksets.cache import Cache, Progress, key_of, silent, tree_digest
from m2gym.tasksets.dockerfile import Build, NeedsImageError, last_workdir, read_dockerfile
from m2gym.tasksets.harbor import Settings, read_settings
from m2gym.tasksets.measure import pack
from m2gym.tasksets.memory import copied, copy, pytest_box

_PARAMETERS = ("fail_to_pass", "pass_to_pass", "command", "test_files", "timeout", "python")


@dataclass(frozen=True)
class _Folder:
    path: Path
    settings: Settings
    build: Build
    task: Task
    needs_image: str = ""


class FolderTaskset:
    """The Harbor tasks below ``path``, by folder name; all are read (and refused) at once.

    A task is judged by its script ``tests/test.sh`` or, where its ``[metadata]`` names
    ``fail_to_pass`` tests, by ``tests-pass`` over the tests in ``tests``. A ``split`` there puts a
    task in one split; without it the task is in both.

    Raises:
        InputError: a folder or field cannot be used; the message names it.
    """

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        cache: Cache | None = None,
        progress: Progress = silent,
    ) -> None:
        root = Path(path)
        if not root.is_dir():
            raise InputError(f"expected a folder of tasks, {str(path)!r} is none")
        self.name = name or root.resolve().name
        self.cache = cache or Cache()
        self.progress = progress
        found = [root] if (root / "task.toml").exists() else sorted(_below(root))
        if not found:
            raise InputError(f"no task.toml in {str(path)!r} or in the folders below it")
        self._folders: dict[str, _Folder] = {}
        for folder in found:
            task_id = folder.resolve().name if folder == root else str(folder.relative_to(root))
            self._folders[task_id] = _read(folder, task_id)

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
        workdir = folder.build.workdir
        mounts, env = pytest_box(task, workdir, self.cache, self.progress)
        spec = WorkspaceSpec(
            root=self._root(folder),
            image=folder.settings.image,
            build=_dockerfile_folder(folder),
            needs_image=bool(folder.needs_image),
            workdir=workdir,
            mounts=mounts,
            links=dict(LINKS),
            env={**env, **folder.build.env, **task.env},
            network=task.network,
            limits=task.limits,
        )
        return PreparedTask(task, spec, self._hidden(folder, task), _reference(folder))

    def _root(self, folder: _Folder) -> Path | None:
        if not folder.build.copies:
            return None
        digests = [
            (source.name, tree_digest(source) if source.is_dir() else source.read_bytes().hex())
            for source, _ in folder.build.copies
        ]
        targets = [target for _, target in folder.build.copies]
        return self.cache.folder("files", key_of("build", digests, targets), folder.build.make)

    def _hidden(self, folder: _Folder, task: Task) -> Path:
        tests = copied(self.cache, folder.path / "tests")
        script = any(spec.name == "test-script" for spec in task.rewards)
        inner = f"{HIDDEN}/tests" if script else "tests"

        def build(target: Path) -> None:
            (target / inner).parent.mkdir(parents=True, exist_ok=True)
            copy(tests, target / inner)

        return self.cache.folder("files", key_of("hidden", inner, tests.parent.name), build)


def _below(root: Path) -> list[Path]:
    return [p.parent for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}/task.toml")]


def _read(folder: Path, task_id: str) -> _Folder:
    settings = read_settings(folder / "task.toml")
    for needed in ("instruction.md", "tests"):
        if not (folder / needed).exists():
            raise InputError(f"{folder}: a task folder holds {needed}, this one does not")
    needs = f"docker_image = {settings.image!r}" if settings.image else ""
    try:
        build = read_dockerfile(folder / "environment", settings.workdir)
    except NeedsImageError as error:
        needs = needs or str(error)
        build = Build(last_workdir(folder / "environment", settings.workdir))
    task = Task(
        id=task_id,
        instruction=(folder / "instruction.md").read_text(encoding="utf-8"),
        rewards=(_reward(folder, settings),),
        limits=settings.limits,
        network=settings.network,
        env=settings.env,
        metadata={**settings.metadata, **({"needs_image": needs} if needs else {})},
    )
    return _Folder(folder, settings, build, task, needs)


def _dockerfile_folder(folder: _Folder) -> Path | None:
    """What an image is built from; a ready image goes before a Dockerfile."""
    environment = folder.path / "environment"
    if folder.settings.image or not (environment / "Dockerfile").exists():
        return None
    return environment.resolve()


def _reward(folder: Path, settings: Settings) -> RewardSpec:
    if "fail_to_pass" in settings.metadata:
        own = {k: settings.metadata[k] for k in _PARAMETERS if k in settings.metadata}
        return RewardSpec(name="tests-pass", parameters={"pass_to_pass": [], **own})
    if not (folder / "tests" / "test.sh").exists():
        raise InputError(
            f"{folder}: expected tests/test.sh, or fail_to_pass in the [metadata] of task.toml"
        )
    parameters = {"env": settings.verifier_env, "timeout": settings.limits.grade_seconds}
    return RewardSpec(name="test-script", parameters=parameters)


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
