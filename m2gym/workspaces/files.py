"""Files of a box, read and written by the host without running anything in the box.

A path is walked one component at a time from a descriptor of the box's root, never following a
link in the kernel: links are read as text and resolved by us inside the box. What lies in an
*area* that the box's users can write to (the work folder, homes, ``/tmp``) may link only within
that area, so that no link leads the host out of the box or a reward into another user's files.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import posixpath
import secrets
import stat
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from m2gym.core.errors import InfraError, InputError, UngradableError
from m2gym.workspaces.removal import empty

Owner = tuple[int, int] | None
"""Host user and group id that new files get; ``None`` keeps the caller's."""

MAX_LINKS = 40
MAX_LEVELS = 256
"""Folders within folders that are exported, copied or walked; the project's choice."""

_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_PATH = getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC


class TooLargeError(UngradableError):
    """What should be exported is larger than the box's disk limit allows."""


class TooDeepError(UngradableError):
    """Folders are nested deeper than `MAX_LEVELS`."""

    @classmethod
    def of(cls, what: str) -> TooDeepError:
        """The error for a path, named by its beginning."""
        return cls(
            f"expected at most {MAX_LEVELS} folders within each other; {what[:200]} is deeper"
        )


class Tree:
    """The files of one box."""

    def __init__(self, root: int, workdir: str, areas: Sequence[str]) -> None:
        self.root, self.workdir = root, posixpath.normpath(workdir)
        self.areas = sorted({self.workdir, *areas}, key=len, reverse=True)

    def close(self) -> None:
        os.close(self.root)

    def absolute(self, path: str) -> str:
        """The path in the box, relative ones below the work folder."""
        if "\0" in path:
            raise InputError(f"a path cannot hold a NUL character, got {path!r}")
        return posixpath.normpath("/" + posixpath.join(self.workdir, path).lstrip("/"))

    def read(self, path: str) -> bytes:
        """The bytes of a regular file."""
        with self._parent(path) as (parent, name):
            fd = os.open(name, _LOOK, dir_fd=parent)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise IsADirectoryError(errno.EISDIR, "not a regular file", path)
            return file.read()

    def write(self, path: str, data: bytes, mode: int, owner: Owner) -> None:
        """Put a file in place at once (a temporary file, then a rename); folders are made."""
        with self._parent(path, make=(owner,)) as (parent, name):
            _put(parent, name, data, mode, owner)

    def export(self, paths: Sequence[str], limit: int | None, base: str | None = None) -> bytes:
        """A tar of paths below ``base`` (default the work folder); missing ones are left out.

        Raises:
            TooLargeError: the files exceed ``limit`` bytes.
            TooDeepError: folders are nested deeper than `MAX_LEVELS`.
        """
        out, top = io.BytesIO(), base or self.workdir
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            done: set[str] = set()
            for path in paths:
                name = posixpath.relpath(self.absolute(path), top)
                if name.startswith(".."):
                    raise InputError(f"expected a path below {top}, got {path!r}")
                try:
                    with self._parent(path, follow=False) as (parent, last):
                        _add(tar, parent, last, name, done, limit)
                except (FileNotFoundError, NotADirectoryError, PermissionError):
                    continue
        return out.getvalue()

    def unpack(self, data: bytes, path: str, owner: Owner) -> None:
        """Put a tar's members below ``path``; what would leave it is refused before any is
        written. What is in the way is replaced, a link never followed."""
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                members = tar.getmembers()
                for member in members:
                    _check(member)
                top = self.absolute(path)
                with self._parent(posixpath.join(top, "x"), make=(owner,)) as (folder, _):
                    for member in members:
                        _extract(tar, member, folder, owner)
        except tarfile.TarError as error:
            raise InputError(f"expected a tar archive: {error}") from error

    @contextlib.contextmanager
    def _parent(
        self, path: str, *, follow: bool = True, make: tuple[Owner] | None = None
    ) -> Iterator[tuple[int, str]]:
        """The open folder that holds a path's last component, and that component."""
        where = self.absolute(path)
        area = next((a for a in self.areas if where == a or where.startswith(a + "/")), "/")
        if where == area:
            area = posixpath.dirname(area)
        base = os.open(area.lstrip("/") or ".", _PATH | os.O_DIRECTORY, dir_fd=self.root)
        stack = [base]
        parts = deque(PurePosixPath(where).relative_to(area).parts)
        links = 0
        try:
            while True:
                name = parts.popleft() if parts else "."
                if name == "..":
                    if len(stack) == 1:
                        raise _outside(path, area)
                    os.close(stack.pop())
                    continue
                if name != ".":
                    try:
                        info = os.stat(name, dir_fd=stack[-1], follow_symlinks=False)
                    except FileNotFoundError:
                        if not parts:
                            yield stack[-1], name
                            return
                        if make is None:
                            raise _missing(path) from None
                        _make_folder(stack[-1], name, make[0])
                        info = os.stat(name, dir_fd=stack[-1], follow_symlinks=False)
                    if stat.S_ISLNK(info.st_mode) and (parts or follow):
                        links += 1
                        if links > MAX_LINKS:
                            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                        target = os.readlink(name, dir_fd=stack[-1])
                        if target.startswith("/"):
                            inner = posixpath.normpath(target)
                            if area != "/" and inner != area and not inner.startswith(area + "/"):
                                raise _outside(path, area)
                            for fd in stack[1:]:
                                os.close(fd)
                            del stack[1:]
                            target = posixpath.relpath(inner, area)
                        parts.extendleft(reversed(target.split("/")))
                        parts = deque(part for part in parts if part)
                        continue
                if not parts:
                    yield stack[-1], name
                    return
                if name != ".":
                    if len(stack) > MAX_LEVELS:
                        raise TooDeepError.of(path)
                    stack.append(os.open(name, _PATH | os.O_DIRECTORY, dir_fd=stack[-1]))
        finally:
            for fd in stack:
                os.close(fd)


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _outside(path: str, area: str) -> PermissionError:
    return PermissionError(errno.EPERM, f"a link leads outside {area}", path)


def _make_folder(parent: int, name: str, owner: Owner, mode: int = 0o755) -> None:
    os.mkdir(name, mode, dir_fd=parent)
    if owner is not None:
        os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)


def _put(
    parent: int, name: str, data: bytes, mode: int, owner: Owner, mtime: float | None = None
) -> None:
    temporary = f".m2gym-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            if mtime is not None:
                os.utime(fd, (mtime, mtime))
        os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise InfraError(f"writing {name} failed: {error}; free space on the disk") from error
        raise


def _add(
    tar: tarfile.TarFile,
    parent: int,
    last: str,
    name: str,
    done: set[str],
    limit: int | None,
    level: int = 0,
) -> None:
    if name in done:
        return
    done.add(name)
    info = os.stat(last, dir_fd=parent, follow_symlinks=False)
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = stat.S_IMODE(info.st_mode), int(info.st_mtime)
    if stat.S_ISLNK(info.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(last, dir_fd=parent)
        tar.addfile(member)
    elif stat.S_ISREG(info.st_mode):
        if limit is not None and tar.offset + info.st_size > limit:
            raise TooLargeError(f"expected artifacts of at most {limit} bytes; {name} exceeds it")
        fd = os.open(last, _LOOK, dir_fd=parent)
        with os.fdopen(fd, "rb") as file:
            data = file.read(info.st_size) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    elif stat.S_ISDIR(info.st_mode):
        if level > MAX_LEVELS:
            raise TooDeepError.of(name)
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
        fd = os.open(last, _LOOK | os.O_DIRECTORY, dir_fd=parent)
        try:
            for entry in _names(fd):
                inner = entry if name == "." else f"{name}/{entry}"
                with contextlib.suppress(FileNotFoundError):
                    _add(tar, fd, entry, inner, done, limit, level + 1)
        finally:
            os.close(fd)


def _check(member: tarfile.TarInfo) -> None:
    for name in (member.name, member.linkname if member.islnk() else ""):
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise InputError(f"the tar's member {member.name!r} would leave its folder; refused")
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise InputError(f"the tar's member {member.name!r} is a device or a pipe; refused")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, owner: Owner) -> None:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if not parts:
        return
    current = os.dup(folder)
    try:
        for part in parts[:-1] if not member.isdir() else parts:
            following = _enter(current, part, owner)
            os.close(current)
            current = following
        if member.isdir():
            os.fchmod(current, member.mode & 0o777)
            return
        _clear(current, parts[-1], keep_file=True)
        if member.issym():
            _clear(current, parts[-1])
            os.symlink(member.linkname, parts[-1], dir_fd=current)
            if owner is not None:
                os.chown(parts[-1], *owner, dir_fd=current, follow_symlinks=False)
        else:
            source = tar.extractfile(member)
            data = source.read() if source is not None else b""
            _put(current, parts[-1], data, member.mode & 0o777, owner, member.mtime)
    except KeyError as error:
        raise InputError(f"the tar's link {member.name!r} has no target in it") from error
    finally:
        os.close(current)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def _enter(parent: int, name: str, owner: Owner) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
    _make_folder(parent, name, owner)
    return os.open(name, flags, dir_fd=parent)


def _clear(parent: int, name: str, *, keep_file: bool = False) -> None:
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        if not keep_file:
            os.unlink(name, dir_fd=parent)
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        empty(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
