"""The tar that came out of an agent's box, cleaned before it enters the grading box.

What is left out is listed, never silently lost: links that lead outside, devices and pipes,
members below a link or in the place of a hidden file's folder, and caches of byte code (they would
be believed by Python in the place of the source).
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field

from m2gym.core.errors import UngradableError

MAX_FILES = 100_000
MAX_BYTES = 2 * 2**30
"""Bounds of what is graded: the project's choice. Beyond them the agent's work cannot be graded."""


class OversizedError(UngradableError):
    """The agent left more files or bytes than can be graded."""


@dataclass
class Exported:
    """A cleaned tree: ``tar`` to unpack, ``files`` to look at, ``links`` path → target.

    ``elsewhere`` is what was declared outside of the work folder, relative to the box's root.
    """

    tar: bytes
    files: dict[str, bytes]
    links: dict[str, str]
    dropped: list[str] = field(default_factory=list)
    elsewhere: Exported | None = None


def clean(tar: bytes, reserved: Collection[str] = ()) -> Exported:
    """Read an exported tar and write it anew with only what may enter the grading box.

    ``reserved`` are the hidden files' paths: the agent's members there, and non-folders in the
    place of one of their folders, are left out.

    Raises:
        OversizedError: more than `MAX_FILES` members or `MAX_BYTES` bytes.
    """
    hidden = set(reserved)
    folders = {parent for path in hidden for parent in _parents(path)}
    out = Exported(b"", {}, {})
    kept: list[tuple[tarfile.TarInfo, bytes]] = []
    total = 0
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as source:
        for count, member in enumerate(source, 1):
            total += member.size
            if count > MAX_FILES or total > MAX_BYTES:
                raise OversizedError(
                    f"the work folder holds more than {MAX_FILES} files or {MAX_BYTES} bytes"
                )
            name = posixpath.normpath(member.name)
            if name == ".":
                continue
            problem = _problem(member, name, out, hidden, folders)
            if problem:
                out.dropped.append(f"{name}: {problem}")
                continue
            data = b""
            if member.isreg():
                handle = source.extractfile(member)
                data = handle.read() if handle else b""
                out.files[name] = data
            elif member.islnk():
                data = out.files[posixpath.normpath(member.linkname)]
                out.files[name] = data
            elif member.issym():
                out.links[name] = member.linkname
            if member.mode & 0o7000:
                out.dropped.append(f"{name}: special mode bits")
            kept.append((_plain(member, name, len(data)), data))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as target:
        for info, data in kept:
            target.addfile(info, io.BytesIO(data) if info.isreg() else None)
    out.tar = buffer.getvalue()
    return out


def _problem(
    member: tarfile.TarInfo, name: str, out: Exported, hidden: set[str], folders: set[str]
) -> str | None:
    if name.startswith(("/", "../")) or name == "..":
        return "outside the work folder"
    if "__pycache__" in name.split("/"):
        return "byte code"
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return "not a file, folder or link"
    if any(parent in out.links for parent in _parents(name)):
        return "below a link"
    if name in hidden or any(parent in hidden for parent in _parents(name)):
        return "in the place of a hidden file"
    if name in folders and not member.isdir():
        return "in the place of a hidden file's folder"
    if member.issym():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        if target.startswith(("/", "../")) or target == "..":
            return f"link to {member.linkname!r}, outside the work folder"
    if member.islnk() and posixpath.normpath(member.linkname) not in out.files:
        return "hard link to nothing that is graded"
    return None


def _plain(member: tarfile.TarInfo, name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mtime = int(member.mtime)
    info.mode = (member.mode & 0o777) | (0o700 if member.isdir() else 0o600)
    if member.issym():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, member.linkname, 0o777
    elif member.isdir():
        info.type = tarfile.DIRTYPE
    else:
        info.size = size
    return info


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
