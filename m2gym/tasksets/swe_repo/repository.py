"""Build the files of a real-repository task: the agent's tree, the hidden tests, the reference.

The agent's tree holds every file of the release it starts from but its changelogs (they name the
fixes) and packaging leftovers, in a git repository with one commit. It sees that release's own
tests; of an injected bug, not the test files that show it. The hidden folder holds the tests and
test configuration of the release with the fix.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.errors import InfraError, InputError
from m2gym.core.task import Limits, Mount, PreparedTask, Reference, Task, WorkspaceSpec
from m2gym.tasksets.edits.changes import merged
from m2gym.tasksets.edits.mutate import mutate_many
from m2gym.tasksets.registry import site
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent
from m2gym.tasksets.registry.fetch import RegistryFile, fetch
from m2gym.tasksets.registry.pinned import required_files
from m2gym.tasksets.registry.sdist import (
    EPOCH,
    Layout,
    PackageRejectedError,
    entry_points,
    files_of,
    is_changelog,
    layout,
    metadata,
    unpack,
)
from m2gym.tasksets.registry.site import WORKDIR
from m2gym.tasksets.swe_repo.recipe import ChangeSpec, MutationSpec

DIST = "/opt/m2gym/dist"

_FORMAT = 4
_LEFTOVERS = (".egg-info/", ".dist-info/")


@dataclass(frozen=True)
class Repository:
    """A built task on disk. ``sources`` and ``tests`` are paths relative to the work folder."""

    root: Path
    hidden: Path
    fixed: Path
    dist: Path
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    python_path: str
    deleted: tuple[str, ...]

    def reference(self) -> Reference:
        """The known good change."""
        changed: dict[str, bytes | None] = {
            path: (self.fixed / path).read_bytes() for path in files_of(self.fixed)
        }
        return Reference({**changed, **dict.fromkeys(self.deleted)})

    def test_paths(self) -> list[str]:
        """The files and folders of hidden tests."""
        return [path for path in self.tests if (self.hidden / path).exists()]


def build_repository(
    source: RegistryFile,
    fixed: RegistryFile | None,
    mutations: tuple[MutationSpec, ...],
    unseen: tuple[str, ...],
    cache: Cache,
    progress: Progress = silent,
    part: tuple[ChangeSpec, ...] = (),
) -> Repository:
    """The files of a task, from the cache or built from the registry's archives.

    Either ``fixed`` (the release with the fix) or ``mutations`` (of ``source``) is given;
    ``unseen`` are test files that the agent's tree lacks; ``part`` is what of the step to ``fixed``
    the reference change takes (empty: all).

    Raises:
        DownloadError: the archives are not to be had.
        PackageRejectedError: the archives do not make a task.
    """
    wanted = [f for f in (source, fixed) if f is not None]
    hashes = [f.sha256 for f in wanted]
    specs = [m.model_dump() for m in mutations]
    taken = [[piece.model_dump() for piece in part]] if part else []
    key = key_of("repository", _FORMAT, hashes, specs, sorted(unseen), *taken)

    def build(folder: Path) -> None:
        archives = fetch(wanted, cache, progress)
        with cache.scratch() as scratch:
            trees = [
                _unpack(file, archives[file.filename], scratch / str(number))
                for number, file in enumerate(wanted)
            ]
            progress(f"building {source.project} {source.version}", 0, 1)
            if fixed is None:
                _build_injected(folder, trees[0], mutations, unseen)
            else:
                _build_version_diff(folder, trees[0], trees[1], unseen, part)
            progress(f"built {source.project} {source.version}", 1, 1)

    return _open(cache.folder("tasks", key, build))


def prepare_to_measure(
    release: RegistryFile,
    built: Repository,
    requires: Iterable[str | RegistryFile],
    seconds: float,
    cache: Cache,
    progress: Progress = silent,
) -> PreparedTask:
    """A release's boxes before there is a task: no statement, no reward, tests bound by
    ``seconds``."""
    task = Task(
        id=f"{release.project}-{release.version}",
        instruction="",
        artifacts=built.sources,
        limits=Limits(grade_seconds=seconds),
        metadata={"package": release.project},
    )
    return prepare_task(task, built, requires, cache, progress)


def prepare_task(
    task: Task,
    built: Repository,
    requires: Iterable[str | RegistryFile],
    cache: Cache,
    progress: Progress = silent,
) -> PreparedTask:
    """A task over a built repository, with its box described; milliseconds when cached.

    Raises:
        UnknownIdError: no pinned file has a name in ``requires``.
        InputError: the tests need the very package that the agent works on.
    """
    needed = required_files(requires)
    package = str(task.metadata.get("package", ""))
    if package in {file.project for file in needed}:
        raise InputError(
            f"task {task.id!r}: its tests need {package!r} itself, which would show it"
        )
    packages = site.site_folder(needed, cache, progress)
    parent = WORKDIR if built.python_path == "." else f"{WORKDIR}/{built.python_path}"
    spec = WorkspaceSpec(
        root=built.root,
        workdir=WORKDIR,
        mounts=(
            *site.python_mounts(cache, [Path(source).name for source in built.sources]),
            Mount(source=packages, target=site.TARGET),
            Mount(source=built.dist, target=DIST),
        ),
        env={**site.box_environment([parent, DIST]), **task.env},
        network=task.network,
        limits=task.limits,
    )
    return PreparedTask(task, spec, built.hidden, built.reference())


@dataclass(frozen=True)
class _Tree:
    """An unpacked archive."""

    path: Path
    layout: Layout
    version: str
    project: str


def _unpack(file: RegistryFile, archive: Path, target: Path) -> _Tree:
    unpack(archive, file.filename, target)
    project, version = metadata(target)
    return _Tree(target, layout(target, file.project), version, project)


def _build_version_diff(
    folder: Path,
    old: _Tree,
    new: _Tree,
    unseen: tuple[str, ...],
    part: tuple[ChangeSpec, ...],
) -> None:
    _copy(old.path, folder / "root", lambda p: _is_shown(p, old.layout) and p not in unseen)
    _copy(new.path, folder / "hidden", new.layout.is_test)
    before = {p for p in files_of(old.path) if old.layout.is_source(p)}
    after = {p for p in files_of(new.path) if new.layout.is_source(p)}
    changed = {
        path
        for path in after
        if path not in before or (old.path / path).read_bytes() != (new.path / path).read_bytes()
    }
    if not changed:
        raise PackageRejectedError(f"{old.project}: the two releases have the same source")
    deleted = before - after
    if part:
        chosen = {piece.path for piece in part}
        changed, deleted = changed & chosen, deleted & chosen
    _copy(new.path, folder / "fixed", changed.__contains__)
    for piece in part:
        if piece.hunks:
            target = folder / "fixed" / piece.path
            target.write_bytes(
                merged((old.path / piece.path).read_bytes(), target.read_bytes(), piece.hunks)
            )
            os.utime(target, (EPOCH, EPOCH))
    _finish(folder, old, sorted(deleted))


def _build_injected(
    folder: Path, tree: _Tree, mutations: tuple[MutationSpec, ...], unseen: tuple[str, ...]
) -> None:
    _copy(tree.path, folder / "root", lambda p: _is_shown(p, tree.layout) and p not in unseen)
    _copy(tree.path, folder / "hidden", tree.layout.is_test)
    _copy(tree.path, folder / "fixed", {m.path for m in mutations}.__contains__)
    for changed in dict.fromkeys(m.path for m in mutations):
        path = folder / "root" / changed
        mistakes = [(m.operator, m.place, m.seed) for m in mutations if m.path == changed]
        path.write_bytes(mutate_many(path.read_bytes(), mistakes))
    _finish(folder, tree, [])


def _is_shown(path: str, where: Layout) -> bool:
    if any(part in f"{path}/" for part in _LEFTOVERS) or path == "PKG-INFO":
        return False
    return where.is_source(path) or where.is_test(path) or not is_changelog(path)


def _copy(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    target.mkdir()
    for path in files_of(source):
        if wanted(path):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, target / path)
            os.utime(target / path, (EPOCH, EPOCH))


def _finish(folder: Path, tree: _Tree, deleted: list[str]) -> None:
    """The rest of a built folder; ``tree`` is what the agent starts from."""
    info = folder / "dist" / f"{tree.project.replace('-', '_')}-{tree.version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {tree.project}\nVersion: {tree.version}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points(tree.path), encoding="utf-8")
    facts = {
        "sources": tree.layout.sources,
        "tests": tree.layout.tests,
        "python_path": tree.layout.python_path,
        "deleted": deleted,
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    for path in (folder / "root").rglob("*"):
        os.utime(path, (EPOCH, EPOCH))
    commit_tree(folder / "root")


def commit_tree(root: Path) -> None:
    """One commit by a neutral author, the same bytes on every machine (but for git's index)."""
    date = f"{EPOCH} +0000"
    person = {f"GIT_{who}_{what}": "m2gym" for who in ("AUTHOR", "COMMITTER") for what in ("NAME",)}
    environment = {
        "PATH": os.environ.get("PATH", site.SYSTEM_PATH),
        "HOME": str(root),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_EMAIL": "m2gym@localhost",
        "GIT_COMMITTER_EMAIL": "m2gym@localhost",
        "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_DATE": date,
        **person,
    }
    git = ["git", "-C", str(root), "-c", "core.autocrlf=false", "-c", "core.fsync=none"]
    commands = (
        ["init", "-q", "--template=", "-b", "main"],
        ["add", "-A", "-f"],
        ["commit", "-q", "--no-gpg-sign", "-m", "Source"],
    )
    for command in commands:
        try:
            done = subprocess.run([*git, *command], env=environment, capture_output=True, text=True)
        except OSError as error:
            raise InfraError(f"git is needed to build tasks, and cannot be run: {error}") from error
        if done.returncode:
            raise InfraError(f"git {command[0]} failed in {root}: {done.stderr.strip()}")
    exclude = root / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("__pycache__/\n.pytest_cache/\n", encoding="utf-8")


def _open(folder: Path) -> Repository:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return Repository(
        folder / "root",
        folder / "hidden",
        folder / "fixed",
        folder / "dist",
        tuple(facts["sources"]),
        tuple(facts["tests"]),
        facts["python_path"],
        tuple(facts["deleted"]),
    )
