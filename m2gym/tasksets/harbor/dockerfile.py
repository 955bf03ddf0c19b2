"""The part of a Dockerfile that a workspace without images can honour: where files go.

Files go to the work folder; folders may also go below ``/opt``, where the box shows them read-only.

``FROM`` names an image whose content the local workspace does not have; it is accepted because most
tasks need no more of it than Python or a shell, which the box has. ``RUN`` and the like need a
workspace that builds images, such as ``docker``.
"""

from __future__ import annotations

import json
import posixpath
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from m2gym.core.errors import InputError
from m2gym.core.task import Mount

WORKDIR = "/app"
"""The work folder of a task that names none; the project's choice, as in most tasks at hand."""

ASIDE = "/opt/"
"""Below it a folder can be shown in a box without hiding anything of the machine's."""


class NeedsImageError(InputError):
    """A Dockerfile does what only an engine that builds images can."""


_IGNORED = {"FROM", "LABEL", "MAINTAINER", "EXPOSE", "CMD"}


@dataclass(frozen=True)
class Build:
    """Files of the host → places relative to the work folder, folders shown, and variables."""

    workdir: str
    copies: tuple[tuple[Path, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def make(self, target: Path) -> None:
        """Copy everything below ``target``."""
        for source, place in self.copies:
            to = target / place
            to.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(source, to)


def read_dockerfile(environment: Path, workdir: str | None) -> Build:
    """What an ``environment`` folder puts in the work folder.

    Without a Dockerfile all of its files go there. ``workdir`` overrides the Dockerfile's.

    Raises:
        NeedsImageError: an instruction needs a container; named with its line.
        InputError: a path leads elsewhere; named with its line.
    """
    dockerfile = environment / "Dockerfile"
    if not dockerfile.exists():
        own = ((environment, "."),) if environment.is_dir() else ()
        return Build(workdir or WORKDIR, own)
    here = "/"
    copies: list[tuple[Path, str]] = []
    env: dict[str, str] = {}
    for number, line in _instructions(dockerfile):
        where = f"{dockerfile}, line {number}"
        word, _, rest = line.partition(" ")
        word, rest = word.upper(), rest.strip()
        if word == "WORKDIR":
            here = posixpath.normpath(posixpath.join(here, _words(rest, where)[0]))
        elif word == "COPY":
            copies += _copy(environment, rest, here, where)
        elif word == "ENV":
            env |= _env(rest, where)
        elif word not in _IGNORED:
            raise NeedsImageError(
                f"{where}: {word} needs a container image; without one FROM, WORKDIR, COPY and ENV "
                "are understood here"
            )
    final = workdir or (here if here != "/" else WORKDIR)
    placed, mounts = [], []
    for source, target in copies:
        if source.is_dir() and target.startswith(ASIDE):
            mounts.append(Mount(source=source.resolve(), target=target))
            continue
        relative = posixpath.relpath(target, final)
        if relative.startswith(".."):
            raise NeedsImageError(
                f"{dockerfile}: COPY to {target!r} lies outside the work folder {final!r}"
            )
        placed.append((source, relative))
    return Build(final, tuple(placed), tuple(mounts), env)


def last_workdir(environment: Path, workdir: str | None) -> str | None:
    """The work folder that a Dockerfile of any kind names; ``None`` where it is its base's."""
    here = "/"
    if not (environment / "Dockerfile").exists():
        return workdir
    for number, line in _instructions(environment / "Dockerfile"):
        word, _, rest = line.partition(" ")
        if word.upper() == "FROM":
            here = "/"
        elif word.upper() == "WORKDIR":
            name = _words(rest.strip(), f"line {number}")[0]
            here = posixpath.normpath(posixpath.join(here, name))
    return workdir or (here if here != "/" else None)


def _instructions(dockerfile: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, raw in enumerate(dockerfile.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.strip()
        if line.startswith("#") or (not line and not pending):
            continue
        start = start if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        found.append((start, pending + line))
        pending = ""
    return found


def _words(text: str, where: str) -> list[str]:
    try:
        words = json.loads(text) if text.startswith("[") else shlex.split(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} cannot be read: {error}") from error
    if not words:
        raise InputError(f"{where}: an argument is missing")
    return [str(word) for word in words]


def _copy(environment: Path, text: str, here: str, where: str) -> list[tuple[Path, str]]:
    words = _words(text, where)
    for word in words:
        if word.startswith("--") and not word.startswith(("--chown", "--chmod")):
            raise NeedsImageError(f"{where}: COPY {word} needs a container image")
    *sources, target = [word for word in words if not word.startswith("--")]
    if not sources:
        raise InputError(f"{where}: COPY needs a source and a target")
    into = target.endswith("/") or len(sources) > 1 or target in (".", "./")
    base = posixpath.normpath(posixpath.join(here, target))
    found = []
    for name in sources:
        matches = sorted(environment.glob(name)) if "*" in name else [environment / name]
        for path in matches:
            if not path.resolve().is_relative_to(environment.resolve()):
                raise InputError(f"{where}: COPY {name!r} lies outside the environment folder")
            if not path.exists():
                raise InputError(f"{where}: COPY {name!r}: there is no such file")
            inside = into or "*" in name
            found.append((path, base if path.is_dir() or not inside else f"{base}/{path.name}"))
    return found


def _env(text: str, where: str) -> dict[str, str]:
    words = _words(text, where)
    if "=" not in words[0]:
        return {words[0]: " ".join(words[1:])}
    pairs = [word.partition("=") for word in words]
    return {name: value for name, _, value in pairs}
