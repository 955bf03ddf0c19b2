"""Harbor-format task folders as a taskset.

A folder with a ``task.toml`` is one task; any other folder is searched for such folders. A task
whose Dockerfile does no more than copy files runs in any workspace; one that needs an image
(``docker_image``, ``RUN`` …) says so in its metadata, ``needs_image``, and is refused by workspaces
without images. `settings` says which fields are understood, `parts` what becomes of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.errors import CapabilityError, InfraError, InputError, UnknownIdError
from m2gym.core.task import Mount, PreparedTask, Split, Stage, Task, WorkspaceSpec
from m2gym.rewards.script import LINKS, PREPARE
from m2gym.tasksets.harbor.dockerfile import (
    WORKDIR,
    Build,
    NeedsImageError,
    last_workdir,
    read_dockerfile,
)
from m2gym.tasksets.harbor.parts import Part, check_files
from m2gym.tasksets.harbor.settings import Settings, Step, read_settings
from m2gym.tasksets.memory import pytest_box
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent, tree_digest

_GIT = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
"""The work folder is the agent's, whoever made it in the image; git then asks to be told."""


@dataclass(frozen=True)
class _Folder:
    path: Path
    settings: Settings
    build: Build
    parts: tuple[Part, ...]
    task: Task
    needs_image: str = ""
    own_workdir: bool = False
    """Whether only the image itself knows its work folder."""


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
        workdir = self._workdir(folder)
        mounts: tuple[Mount, ...] = ()
        env: dict[str, str] = {}
        if folder.parts[0].own() is None:
            mounts, env = pytest_box(task, workdir, self.cache, self.progress)
        spec = WorkspaceSpec(
            root=self._root(folder),
            image=folder.settings.environment.image,
            build=_dockerfile_folder(folder),
            needs_image=bool(folder.needs_image),
            workdir=workdir,
            mounts=(*folder.build.mounts, *mounts),
            links=dict(LINKS),
            env={**(_GIT if folder.needs_image else {}), **env, **folder.build.env, **task.env},
            network=task.network,
            allowed_hosts=task.allowed_hosts,
            user=folder.settings.agent.user or "agent",
            limits=task.limits,
        )
        stages = tuple(
            Stage(
                name=step.name,
                prepared=self._prepared(_stage_task(folder, task, number, workdir), spec, part),
                files=_existing(part.folder / "workdir"),
                setup=_SETUP if (part.folder / "workdir" / "setup.sh").is_file() else None,
                least=step.least,
            )
            for number, (step, part) in enumerate(
                zip(folder.settings.steps, folder.parts, strict=False)
            )
        )
        if folder.own_workdir:
            task = task.model_copy(update={"artifacts": folder.parts[0].artifacts(workdir)})
        if not stages:
            return self._prepared(task, spec, folder.parts[0])
        first = self._prepared(task, spec, folder.parts[0])
        return PreparedTask(
            task, spec, first.hidden, first.reference, first.setup, first.grading, stages,
            folder.settings.strategy,
        )  # fmt: skip

    def _prepared(self, task: Task, spec: WorkspaceSpec, part: Part) -> PreparedTask:
        policy, own = part.settings.judge_network(part.judge), part.judge.box
        own = own or part.settings.verifier.box
        changed: dict[str, object] = {"network": policy.network, "allowed_hosts": policy.hosts}
        if part.bundle is not None:
            changed |= {"image": None, "build": part.bundle.resolve(), "root": None}
        elif own is not None and own.image is not None:
            changed |= {"image": own.image, "build": None, "root": None}
        if part.bundled:
            links = {path: target for path, target in LINKS.items() if path != "/tests"}
            changed |= {"needs_image": True, "links": links}
        if own is not None:
            changed["env"] = {**spec.env, **own.env}
        return PreparedTask(
            task,
            spec,
            part.hidden(self.cache),
            part.reference(),
            setup=PREPARE,
            grading=spec.model_copy(update=changed),
        )

    def _workdir(self, folder: _Folder) -> str:
        """The work folder; an image that alone knows it is asked, where there is an engine."""
        if not folder.own_workdir:
            return folder.build.workdir
        from m2gym.workspaces.docker_engine import engine
        from m2gym.workspaces.docker_images import workdir_of

        image, build = folder.settings.environment.image, _dockerfile_folder(folder)
        try:
            found = workdir_of(engine(), WorkspaceSpec(image=image, build=build))
        except (CapabilityError, InfraError):
            found = None  # a box that needs the image will say why there is none
        return found or folder.build.workdir

    def _root(self, folder: _Folder) -> Path | None:
        if not folder.build.copies:
            return None
        digests = [
            (source.name, tree_digest(source) if source.is_dir() else source.read_bytes().hex())
            for source, _ in folder.build.copies
        ]
        targets = [target for _, target in folder.build.copies]
        return self.cache.folder("files", key_of("build", digests, targets), folder.build.make)


_SETUP = "bash setup.sh"


def _below(root: Path) -> list[Path]:
    return [p.parent for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}/task.toml")]


def _existing(folder: Path) -> Path | None:
    return folder.resolve() if folder.is_dir() else None


def _read(folder: Path, task_id: str) -> _Folder:
    settings = read_settings(folder / "task.toml")
    check_files(folder)
    tests, solution = folder / "tests", folder / "solution"
    parts = tuple(_step_part(folder, settings, step) for step in settings.steps)
    if not parts:
        parts = (Part(folder, (tests,), solution, settings.verifier, settings),)
        if not tests.exists():
            raise InputError(f"{folder}: a task folder holds tests, this one does not")
    image = settings.environment.image
    needs = f"docker_image = {image!r}" if image else ""
    try:
        build = read_dockerfile(folder / "environment", settings.environment.workdir)
    except NeedsImageError as error:
        needs = needs or str(error)
        build = Build(WORKDIR)
    named = last_workdir(folder / "environment", settings.environment.workdir)
    own_workdir = bool(needs) and named is None
    if needs:
        build = Build(named or WORKDIR)
    if not needs and any(part.bundled for part in parts):
        needs = "the verifier has an image of its own"
    task = _task(task_id, settings, build, parts, needs)
    return _Folder(folder, settings, build, parts, task, needs, own_workdir)


def _step_part(folder: Path, settings: Settings, step: Step) -> Part:
    own = folder / "steps" / step.name
    if not own.is_dir():
        raise InputError(f"{folder}: step {step.name!r} has no folder steps/{step.name}")
    check_files(own)
    solution = own / "solution"
    return Part(
        own,
        (folder / "tests", own / "tests"),
        solution if solution.is_dir() else folder / "solution",
        step.verifier,
        settings,
    )


def _task(
    task_id: str, settings: Settings, build: Build, parts: tuple[Part, ...], needs: str
) -> Task:
    metadata = {**settings.metadata, **({"needs_image": needs} if needs else {})}
    if settings.steps:
        metadata["steps"] = [
            {
                "name": step.name,
                "instruction": part.instruction(),
                "rewards": [spec.model_dump() for spec in part.rewards()],
                "min_reward": dict(step.least),
            }
            for step, part in zip(settings.steps, parts, strict=True)
        ]
    first, policy = parts[0], settings.network
    own = settings.steps[0].artifacts if settings.steps else ()
    return Task(
        id=task_id,
        instruction=first.instruction(),
        rewards=first.rewards(),
        artifacts=first.artifacts(build.workdir, own),
        limits=settings.limits,
        network=policy.network,
        allowed_hosts=policy.hosts,
        isolation="shared" if any(part.isolation == "shared" for part in parts) else "fresh",
        env=dict(settings.environment.env),
        metadata=metadata,
    )


def _stage_task(folder: _Folder, task: Task, number: int, workdir: str) -> Task:
    """The task of one step; bounds that the caller changed hold for every step."""
    step, part = folder.settings.steps[number], folder.parts[number]
    limits, usual = task.limits, folder.task.limits
    own = {"seconds": step.agent.seconds, "grade_seconds": step.verifier.seconds}
    own = {
        key: value
        for key, value in own.items()
        if value is not None and getattr(limits, key) == getattr(usual, key)
    }
    limits = limits.model_copy(update=own)
    return task.model_copy(
        update={
            "instruction": part.instruction(),
            "rewards": part.rewards(),
            "artifacts": part.artifacts(workdir, step.artifacts),
            "isolation": part.isolation,
            "limits": limits,
        }
    )


def _dockerfile_folder(folder: _Folder) -> Path | None:
    """What an image is built from; a ready image goes before a Dockerfile."""
    environment = folder.path / "environment"
    if folder.settings.environment.image or not (environment / "Dockerfile").exists():
        return None
    return environment.resolve()
