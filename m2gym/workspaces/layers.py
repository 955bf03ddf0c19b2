"""The writable files of boxes: layers of an overlay, or copies where overlay is not allowed.

A layer is a frozen folder with the subfolders of `FOLDERS`. A box is a stack of layers below an
empty upper folder; a snapshot freezes a copy of the upper one alone, so that its cost is that of
what the box itself has changed, whatever the size of the tree it began with.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from m2gym.core.errors import InfraError, InputError
from m2gym.workspaces.files import MAX_LEVELS, TooDeepError
from m2gym.workspaces.limits import linux
from m2gym.workspaces.state import State, full_disk, remove_tree

FOLDERS = ("work", "home", "grader", "root", "tmp")
KEPT_BASES = 64
"""Frozen copies of ``spec.root`` folders kept for reuse; the project's choice."""

MAX_DEPTH = 100
"""Layers below a box before they are merged (the kernel stops at 500); the project's choice."""

LONGEST_PATH = 3800
"""Bytes of a folder's path that is copied: a name in it still fits the kernel's 4096."""

_FICLONE = 0x40049409


@dataclass
class Layer:
    """A frozen folder, removed when the last box or snapshot lets go of it."""

    path: Path
    holders: int = 1
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def hold(self) -> Layer:
        with self._guard:
            self.holders += 1
        return self

    def release(self) -> None:
        with self._guard:
            self.holders -= 1
            last = self.holders == 0
        if last:
            remove_tree(self.path)


@dataclass(frozen=True)
class Owners:
    """Host ids of the box's users: (uid, gid) of each; ``None`` where all are the caller."""

    root: tuple[int, int] | None = None
    agent: tuple[int, int] | None = None
    grader: tuple[int, int] | None = None


class Bases:
    """Frozen first layers: the empty skeleton, and copies of ``spec.root`` folders by content."""

    def __init__(self, owners: Owners) -> None:
        self.owners = owners
        self._skeleton: Layer | None = None
        self._copies: OrderedDict[str, Layer] = OrderedDict()
        self._guard = threading.Lock()

    def skeleton(self) -> Layer:
        """Empty folders with the right owners and modes."""
        with self._guard:
            if self._skeleton is None:
                layer = Layer(_new_folder())
                users = {"work": "agent", "home": "agent", "grader": "grader"}
                modes = {"tmp": 0o1777, "work": 0o755, "home": 0o755}
                for name in FOLDERS:
                    path = layer.path / name
                    path.mkdir()
                    path.chmod(modes.get(name, 0o700))
                    owner = getattr(self.owners, users.get(name, "root"))
                    if owner is not None:
                        os.chown(path, *owner)
                self._skeleton = layer
            return self._skeleton.hold()

    def of(self, root: Path) -> Layer:
        """A frozen copy of a folder, owned by the agent; the same content is copied once."""
        if not root.is_dir():
            raise InputError(f"expected spec.root to be a folder, got {root}")
        key = fingerprint(root)
        with self._guard:
            layer = self._copies.get(key)
            if layer is None:
                layer = Layer(_new_folder())
                with full_disk("copying the task's files"):
                    copy_tree(root, layer.path / "work", self.owners.agent)
                (layer.path / "work").chmod(0o755)
                self._copies[key] = layer
                while len(self._copies) > KEPT_BASES:
                    self._copies.popitem(last=False)[1].release()
            else:
                self._copies.move_to_end(key)
            return layer.hold()


def _new_folder() -> Path:
    state = State.get()
    path = state.path / "layers" / state.name("l")
    with full_disk("making a layer"):
        path.mkdir(mode=0o711)
        path.chmod(0o711)
    return path


def fingerprint(root: Path) -> str:
    """A hash that changes when any file below a folder does (by inode and change time)."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(root)))
    stack = [root]
    while stack:
        folder = stack.pop()
        info = folder.stat()
        digest.update(f"{info.st_ino}:{info.st_ctime_ns}".encode())
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                if entry.is_dir(follow_symlinks=False):
                    stack.append(Path(entry.path))
                    continue
                info = entry.stat(follow_symlinks=False)
                digest.update(os.fsencode(entry.name))
                digest.update(f":{info.st_ino}:{info.st_size}:{info.st_ctime_ns}".encode())
    return digest.hexdigest()


def copy_tree(
    source: Path,
    target: Path,
    owner: tuple[int, int] | None,
    *,
    raw: bool = False,
    level: int = 0,
) -> None:
    """Copy a folder with modes, times and links; share blocks where the file system can.

    ``raw`` copies an overlay's upper folder: owners, extended attributes and whiteouts stay.
    Pipes and sockets are left out. Folders nested too deep, or beyond the longest path, are a
    `TooDeepError`.
    """
    if level > MAX_LEVELS or len(os.fsencode(target)) > LONGEST_PATH:
        raise TooDeepError.of(os.fspath(source))
    target.mkdir(exist_ok=True)
    with os.scandir(source) as entries:
        for entry in entries:
            place, info = target / entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                copy_tree(Path(entry.path), place, owner, raw=raw, level=level + 1)
                continue
            if stat.S_ISLNK(info.st_mode):
                place.symlink_to(Path(entry.path).readlink())
            elif stat.S_ISREG(info.st_mode):
                _copy_file(entry.path, place)
            elif raw and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                os.mknod(place, stat.S_IFCHR | stat.S_IMODE(info.st_mode), 0)
            else:
                continue
            _copy_facts(entry.path, place, info, owner, raw=raw)
    _copy_facts(os.fspath(source), target, source.stat(), owner, raw=raw)


def _copy_file(source: str, target: Path) -> None:
    with Path(source).open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            if not _send(reader.fileno(), writer.fileno()):
                shutil.copyfileobj(reader, writer, 1 << 20)


def _send(source: int, target: int) -> bool:
    """Copy in the kernel; false, with nothing written, where it cannot."""
    left = os.fstat(source).st_size
    try:
        while left > 0:
            sent = os.copy_file_range(source, target, left)
            if sent == 0:
                return True
            left -= sent
    except OSError:
        os.lseek(source, 0, os.SEEK_SET)
        os.ftruncate(target, 0)
        os.lseek(target, 0, os.SEEK_SET)
        return False
    return True


def _copy_facts(
    source: str, target: Path, info: os.stat_result, owner: tuple[int, int] | None, *, raw: bool
) -> None:
    if raw:
        with contextlib.suppress(PermissionError):
            os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
        for name in os.listxattr(source, follow_symlinks=False):
            if ".overlay." in name:
                os.setxattr(
                    target,
                    name,
                    os.getxattr(source, name, follow_symlinks=False),
                    follow_symlinks=False,
                )
    elif owner is not None:
        os.chown(target, *owner, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        target.chmod(stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


def overlay_options(lower: str, upper: str, work: str) -> str:
    """An overlay's mount options.

    A box's files need not outlive this machine, so nothing in it waits for the disk (``volatile``,
    Linux 5.10): without it the end of a box would sync the host's whole file system.
    """
    own = "" if os.getuid() == 0 else ",userxattr"
    lazy = ",volatile" if linux() >= (5, 10) else ""
    return f"lowerdir={lower},upperdir={upper},workdir={work}{own}{lazy}"


@dataclass
class Stack:
    """The layers below a box, lowest first, each held once."""

    layers: list[Layer]

    def copy(self) -> Stack:
        return Stack([layer.hold() for layer in self.layers])

    def release(self) -> None:
        for layer in self.layers:
            layer.release()
        self.layers = []

    def with_copy_of(self, upper: Path) -> Stack:
        """This stack and a frozen copy of an upper folder on it."""
        layer = Layer(_new_folder())
        try:
            with full_disk("taking a snapshot"):
                copy_tree(upper, layer.path, None, raw=True)
        except (OSError, InfraError, InputError):
            layer.release()
            raise
        return Stack([*self.copy().layers, layer])


class Files:
    """The writable folders of one box in ``folder``: an overlay to mount, or copies."""

    def __init__(self, folder: Path, stack: Stack, *, overlay: bool, owners: Owners) -> None:
        self.folder, self.stack, self.overlay, self.owners = folder, stack, overlay, owners
        self.upper, self._work, self.merged = folder / "u", folder / "w", folder / "m"
        with full_disk("making a box's files"):
            self._prepare()

    def _prepare(self) -> None:
        for path in (self.upper, self._work, self.merged):
            path.mkdir(mode=0o755)
            path.chmod(0o755)
            if self.owners.root is not None:
                os.chown(path, *self.owners.root)
        if not self.overlay:
            for layer in self.stack.layers:
                copy_tree(layer.path, self.merged, None, raw=True)

    def options(self) -> str:
        """What to mount on ``merged``, relative to the state's folder."""
        base = self.folder.parent.parent
        lower = ":".join(str(layer.path.relative_to(base)) for layer in reversed(self.stack.layers))
        upper, work = self.upper.relative_to(base), self._work.relative_to(base)
        return overlay_options(lower, str(upper), str(work))

    def changed(self) -> Path:
        """The folder that holds what the box wrote."""
        return self.upper if self.overlay else self.merged

    def freeze(self, seen: Mapping[str, Path]) -> Stack:
        """A stack with the box's files of this moment.

        ``seen`` is where each of `FOLDERS` shows in the running box; a stack of `MAX_DEPTH` layers
        is merged by copying from there.
        """
        if self.overlay and len(self.stack.layers) >= MAX_DEPTH:
            layer = Layer(_new_folder())
            with full_disk("merging layers"):
                for name, source in seen.items():
                    copy_tree(source, layer.path / name, None, raw=True)
            return Stack([self.stack.layers[0].hold(), layer])
        if self.overlay:
            return self.stack.with_copy_of(self.upper)
        return Stack([]).with_copy_of(self.merged)

    def replace(self, stack: Stack) -> None:
        """Start again from another stack (the box must not run)."""
        for path in (self.upper, self._work, self.merged):
            remove_tree(path)
        self.stack.release()
        self.stack = stack
        with full_disk("restoring a box's files"):
            self._prepare()

    def remove(self) -> None:
        remove_tree(self.folder)
        self.stack.release()
