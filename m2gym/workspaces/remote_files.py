# ruff: noqa: PTH101, PTH103, PTH106, PTH108, PTH123, PTH208, PTH211
"""Acts on the files of a remote box, done in the box by ``remote_agent.py``.

What is read or put lies meanwhile in `STORE`, which only root sees and from where the host fetches
it. A box's own paths are walked by `m2gym.workspaces.files`, as on the host.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator

from m2gym.core.errors import InfraError, InputError
from m2gym.workspaces.files import TooDeepError, Tree
from m2gym.workspaces.removal import empty

STORE = "/root/.m2gym"
HOMES = {"/home/agent": (1000, 0o755), "/home/grader": (1001, 0o700)}
ERRORS = (OSError, InputError, InfraError)
Owner = tuple[int, int]

_workdir = "/"


def prepare(workdir: str, links: dict[str, str]) -> None:
    """Make the work folder, the homes and the links at the root."""
    global _workdir
    _workdir = workdir
    for path, (owner, mode) in {**HOMES, workdir: (1000, 0o755)}.items():
        os.makedirs(path, exist_ok=True)
        os.chown(path, owner, owner)
        os.chmod(path, mode)
    for path, target in links.items():
        with contextlib.suppress(FileExistsError):
            os.symlink(target, path)


@contextlib.contextmanager
def _tree(workdir: str | None = None) -> Iterator[Tree]:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Tree(root, workdir or _workdir, [] if workdir else [*HOMES, "/tmp"])
    finally:
        os.close(root)


def _owner(owner: list[int] | None) -> Owner | None:
    return None if owner is None else (owner[0], owner[1])


def _take(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    return data


def _put(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def read(path: str, into: str) -> None:
    with _tree() as tree:
        _put(into, tree.read(path))


def write(path: str, out_of: str, mode: int, owner: list[int] | None) -> None:
    data = _take(out_of)
    with _tree() as tree:
        tree.write(path, data, mode, _owner(owner))


def export(paths: list[str], limit: int | None, into: str, base: str | None) -> None:
    with _tree() as tree:
        _put(into, tree.export(paths, limit, base))


def unpack(out_of: str, path: str, owner: list[int] | None) -> None:
    data = _take(out_of)
    with _tree() as tree:
        tree.unpack(data, path, _owner(owner))


def mount(out_of: str, target: str) -> None:
    """Lay root's own copy of a host file or folder at ``target``."""
    data = _take(out_of)
    with _tree("/") as tree:
        tree.unpack(data, target, (0, 0))


def forget(path: str) -> None:
    """Remove a file of the store."""
    os.unlink(path)


def _areas() -> list[str]:
    return [_workdir, *HOMES, "/root", "/tmp", "/var/tmp"]


def freeze(into: str) -> None:
    """A tar of everything that the box's users may write."""
    with tarfile.open(into, "w", format=tarfile.PAX_FORMAT) as tar:
        for area in _areas():
            _pack(tar, area, 0)


def _pack(tar: tarfile.TarFile, path: str, level: int) -> None:
    if path == STORE:
        return
    if level > 512:
        raise TooDeepError.of(path)
    with contextlib.suppress(FileNotFoundError):
        info = tar.gettarinfo(path)
        if info is None or not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
            return
        if not info.isreg():
            tar.addfile(info)
        else:
            with open(path, "rb") as file:
                data = file.read()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if info.isdir():
            for name in sorted(os.listdir(path)):
                _pack(tar, f"{path}/{name}", level + 1)


def thaw(out_of: str) -> None:
    """Put the areas back to a `freeze`."""
    for area in _areas():
        with contextlib.suppress(FileNotFoundError):
            _clear(area)
    with tarfile.open(out_of) as tar:
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        for member in tar:
            tar.extract(member, "/", set_attrs=not member.isdir())
            if member.isdir():
                os.chown("/" + member.name, member.uid, member.gid)
                os.chmod("/" + member.name, member.mode & 0o7777)
    os.unlink(out_of)


def _clear(area: str) -> None:
    for name in os.listdir(area):
        path = f"{area}/{name}"
        if path == STORE:
            continue
        if stat.S_ISDIR(os.lstat(path).st_mode):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                empty(fd)
            finally:
                os.close(fd)
            os.rmdir(path)
        else:
            os.unlink(path)


ACTS = {
    act.__name__: act for act in (prepare, read, write, export, unpack, mount, forget, freeze, thaw)
}
