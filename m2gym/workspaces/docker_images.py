"""Images of boxes, made once per content: a task's Dockerfile, and a task's files over an image.

What a box needs beside its image (users, homes, the work folder with the task's files) is laid over
it once and kept as an image of its own, so that starting the same task again costs no more than
creating a container.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import posixpath
import stat
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from m2gym.core.errors import InfraError, InputError
from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces.bubblewrap import AGENT, GRADER, HOMES
from m2gym.workspaces.docker_engine import Engine, ask, failures
from m2gym.workspaces.layers import fingerprint

BASE = "m2gym-base"
"""The image of tasks that name none, unless ``M2GYM_DOCKER_IMAGE`` names another: bash, Python and
git. Where it is not there, the official Python image of this interpreter's version is used."""

BUILD_SECONDS = 1800
"""How long building from a Dockerfile may take; the project's choice."""

_FORM = "2"
"""Changes with what is laid over an image, so that older ones are not used."""

_AREAS = {HOMES["agent"]: AGENT, HOMES["grader"]: GRADER}
_MODES = {HOMES["agent"]: 0o755, HOMES["grader"]: 0o700}
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def image_of(engine: Engine, spec: WorkspaceSpec) -> str:
    """The id of the image a box of ``spec`` starts from, made if need be.

    Raises:
        InputError: ``spec.root`` or ``spec.build`` is no folder.
        InfraError: an image is not to be had or could not be built.
    """
    base = _base(engine, spec)
    digest = hashlib.sha256(
        f"{_FORM}\0{base}\0{spec.workdir}\0{sorted(spec.links.items())}".encode()
    )
    if spec.root is not None:
        if not spec.root.is_dir():
            raise InputError(f"expected spec.root to be a folder, got {spec.root}")
        digest.update(content(spec.root, fingerprint(spec.root)).encode())
    name = f"m2gym-task:{digest.hexdigest()[:32]}"
    return _once(engine, name, lambda: _lay_over(engine, base, spec, name))


def _base(engine: Engine, spec: WorkspaceSpec) -> str:
    if spec.build is not None:
        folder = spec.build
        if not (folder / "Dockerfile").is_file():
            raise InputError(f"expected a Dockerfile in spec.build, {folder} has none")
        name = f"m2gym-build:{content(folder, fingerprint(folder))[:32]}"
        return _once(engine, name, lambda: _build(engine, folder, name))
    if spec.image is not None:
        return _once(engine, spec.image, lambda: _pull(engine, spec.image or ""))
    named = os.environ.get("M2GYM_DOCKER_IMAGE")
    found = identity(engine, named or BASE)
    if found is not None:
        return found
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = named or f"python:{version}-bookworm"
    try:
        return _once(engine, other, lambda: _pull(engine, other))
    except InfraError as error:
        raise InfraError(
            f"no image for tasks that name none: {error}; set M2GYM_DOCKER_IMAGE to one with bash, "
            f"Python and git, or make one: debootstrap --variant=minbase --include=python3,git,"
            f"ca-certificates bookworm root && tar -C root -c . | docker import - {BASE}"
        ) from error


def workdir_of(engine: Engine, spec: WorkspaceSpec) -> str | None:
    """The work folder that an image itself names, if any; the image is made or fetched for it.

    Raises:
        InfraError: the image is not to be had or could not be built.
    """
    base = _base(engine, spec)
    config: dict[str, Any] = ask("reading an image", engine.api.inspect_image, base)["Config"]
    found = str(config.get("WorkingDir") or "/")
    return found if found.strip("/") else None


def identity(engine: Engine, name: str) -> str | None:
    """An image's id, ``None`` when the engine does not have it."""
    import docker

    with failures(f"looking for the image {name}"):
        try:
            return str(engine.api.inspect_image(name)["Id"])
        except docker.errors.NotFound:
            return None


def _once(engine: Engine, name: str, make: Callable[[], None]) -> str:
    """The id of the image ``name``; made by one thread while others wait."""
    with _guard:
        lock = _locks.setdefault(name, threading.Lock())
    with lock:
        found = identity(engine, name)
        if found is None:
            make()
            found = identity(engine, name)
        if found is None:
            raise InfraError(f"the image {name} was made but the engine does not have it")
        return found


def _pull(engine: Engine, name: str) -> None:
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, "latest"
    ask(f"pulling the image {name}", engine.api.pull, repository, tag=tag)


def _build(engine: Engine, folder: Path, name: str) -> None:
    what = f"building {folder / 'Dockerfile'}"
    said: list[str] = []
    steps = ask(
        what, engine.api.build, path=str(folder), tag=name, rm=True, forcerm=True, decode=True,
        timeout=BUILD_SECONDS,
    )  # fmt: skip
    with failures(what):
        for step in steps:
            said.append(str(step.get("stream", "")))
            if "error" in step:
                raise InfraError(f"{what} failed: {step['error']}\n{''.join(said)[-1500:]}")


def _lay_over(engine: Engine, base: str, spec: WorkspaceSpec, name: str) -> None:
    what = "preparing the task's image"
    made = ask(what, engine.api.create_container, base, command=["-"], entrypoint=["-"])
    try:
        people = {file: _read(engine, made["Id"], f"/etc/{file}") for file in ("passwd", "group")}
        with tempfile.TemporaryFile() as layer, tempfile.TemporaryFile() as work:
            if spec.image is not None or spec.build is not None:
                _take(engine, made["Id"], spec.workdir, work)
            write_layer(layer, spec, people, work)
            layer.seek(0)
            ask(what, engine.api.put_archive, made["Id"], "/", layer)
        repository, tag = name.split(":")
        ask(what, engine.api.commit, made["Id"], repository=repository, tag=tag,
            changes=["ENTRYPOINT []", "CMD []"])  # fmt: skip
    finally:
        engine.remove_container(made["Id"])


def _read(engine: Engine, container: str, path: str) -> str:
    import docker

    with failures(f"reading {path} of an image"):
        try:
            parts, _ = engine.api.get_archive(container, path)
        except docker.errors.NotFound:
            return ""
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
            member = next(iter(tar), None)
            file = tar.extractfile(member) if member is not None and member.isreg() else None
            return "" if file is None else file.read().decode("utf-8", "replace")


def _take(engine: Engine, container: str, path: str, out: IO[bytes]) -> None:
    """Write a folder of a container as a tar; nothing where there is none."""
    import docker

    with failures(f"reading {path} of an image"):
        try:
            parts, _ = engine.api.get_archive(container, path)
        except docker.errors.NotFound:
            return
        for part in parts:
            out.write(part)
    out.seek(0)


def write_layer(
    out: IO[bytes], spec: WorkspaceSpec, people: dict[str, str], work: IO[bytes]
) -> None:
    """A tar of what a box needs over its image: users, homes, links and the task's files.

    ``work`` holds the image's own work folder as a tar (or nothing): it becomes the agent's.
    """
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file, text in people.items():
            _add(tar, f"/etc/{file}", data=_with_users(file, text).encode())
        for path, user in _AREAS.items():
            _add(tar, path, mode=_MODES[path], user=user)
        _add(tar, spec.workdir, mode=0o755, user=AGENT)
        for path, target in sorted(spec.links.items()):
            info = _info(path, 0, 0o777, tarfile.SYMTYPE)
            info.linkname = target
            tar.addfile(info)
        _give_to_agent(tar, work, spec.workdir)
        if spec.root is not None:
            _add_tree(tar, spec.root, spec.workdir)


def _give_to_agent(tar: tarfile.TarFile, work: IO[bytes], workdir: str) -> None:
    if work.read(1) == b"":
        return
    work.seek(0)
    top = posixpath.dirname(workdir.strip("/"))
    with tarfile.open(fileobj=work) as source:
        for member in source:
            member.name = posixpath.join(top, member.name)
            if member.islnk():
                member.linkname = posixpath.join(top, member.linkname)
            member.uid = member.gid = AGENT
            member.uname = member.gname = ""
            tar.addfile(member, source.extractfile(member) if member.isreg() else None)


def _with_users(file: str, text: str) -> str:
    lines = text.splitlines()
    taken = {line.split(":")[2] for line in lines if line.count(":") >= 2}
    for name, number in (("agent", AGENT), ("grader", GRADER)):
        if str(number) not in taken:
            rest = f":{number}::{HOMES[name]}:/bin/bash" if file == "passwd" else ":"
            lines.append(f"{name}:x:{number}{rest}")
    return "".join(f"{line}\n" for line in lines)


def _info(path: str, user: int, mode: int, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path.strip("/"))
    info.uid = info.gid = user
    info.mode, info.type = mode, kind
    return info


def _add(
    tar: tarfile.TarFile, path: str, *, mode: int = 0o644, user: int = 0, data: bytes | None = None
) -> None:
    if data is None:
        tar.addfile(_info(path, user, mode, tarfile.DIRTYPE))
        return
    info = _info(path, user, mode, tarfile.REGTYPE)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _add_tree(tar: tarfile.TarFile, root: Path, workdir: str) -> None:
    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = AGENT
        info.uname = info.gname = ""
        return info if info.isreg() or info.isdir() or info.issym() or info.islnk() else None

    for entry in sorted(root.iterdir()):
        tar.add(entry, arcname=f"{workdir.strip('/')}/{entry.name}", filter=owned)


@functools.lru_cache(maxsize=4096)
def content(root: Path, seen: str) -> str:
    """A hash of a folder's names, modes and bytes. ``seen`` (see `fingerprint`) changes with it."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*files, *folders]):
            path = Path(folder) / name
            mode = path.lstat().st_mode
            digest.update(
                f"{path.relative_to(root)}\0{mode:o}\0".encode("utf-8", "surrogateescape")
            )
            if stat.S_ISLNK(mode):
                digest.update(os.fsencode(path.readlink()))
            elif stat.S_ISREG(mode):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def environment_of(engine: Engine, image: str) -> dict[str, str]:
    """The variables that an image sets."""
    config: dict[str, Any] = ask("reading an image", engine.api.inspect_image, image)["Config"]
    pairs = (entry.partition("=") for entry in config.get("Env") or [])
    return {name: value for name, _, value in pairs}
