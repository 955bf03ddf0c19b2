"""The folder a process keeps its boxes in, and the sweep of what dead processes left behind.

``/tmp/m2gym-<uid>/<owner>/`` holds boxes, layers and the small ``/etc`` of the boxes. Its owner
holds a lock on ``lock`` while it lives; whoever comes next removes the folders (and the control
groups) whose lock is free. Boxes themselves cannot be left behind: a box ends when the socket to
its owner closes, and its mounts live in its own mount namespace.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import secrets
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from m2gym.core.errors import InfraError
from m2gym.workspaces.limits import hierarchy, remove_groups_of
from m2gym.workspaces.removal import empty


class Stoppable(Protocol):
    """What `track` accepts: something that can be ended without an event loop."""

    def stop_now(self) -> None: ...


class State:
    """This process's folder. `get` makes it on first use."""

    _current: State | None = None
    _guard = threading.Lock()

    def __init__(self, base: Path) -> None:
        self.pid = os.getpid()
        self.owner = f"m2gym-{secrets.token_hex(6)}"
        self.path = base / self.owner
        self.live: dict[str, Stoppable] = {}
        self._count = 0
        with full_disk("making the folder of the boxes"):
            self.path.mkdir(mode=0o711)
            self.path.chmod(0o711)
            for name in ("boxes", "layers"):
                (self.path / name).mkdir(mode=0o711)
            parents = dict.fromkeys(map(str, hierarchy().parents.values()))
            (self.path / "groups").write_text("\n".join(parents))
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @classmethod
    def get(cls) -> State:
        """The state of this process (a forked child gets one of its own)."""
        with cls._guard:
            if cls._current is None or cls._current.pid != os.getpid():
                base = _base()
                cls._current = cls(base)
                sweep(base)
                atexit.register(cls._current.close)
            return cls._current

    def name(self, kind: str) -> str:
        """A short name that no other box or layer of this process has."""
        with self._guard:
            self._count += 1
            return f"{kind}{self._count:x}"

    def close(self) -> None:
        """End every box and remove the folder; only in the process that made it."""
        if self.pid != os.getpid():
            return
        for box in list(self.live.values()):
            box.stop_now()
        _remove_state(self.path)
        os.close(self._lock)
        if type(self)._current is self:
            type(self)._current = None
        atexit.unregister(self.close)


def _base() -> Path:
    base = Path(tempfile.gettempdir()) / f"m2gym-{os.getuid()}"
    with full_disk("making the folder of the boxes"), contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o711)
    info = base.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o022:
        raise InfraError(
            f"{base} should be a folder of this user that nobody else can write to; remove it"
        )
    base.chmod(0o711)
    return base


def sweep(base: Path) -> list[str]:
    """Remove what dead owners left below ``base``; the names of the removed.

    What cannot be removed is warned of and tried again by the next sweep; it never raises for it.
    """
    removed, kept = [], []
    for folder in base.iterdir():
        if not folder.name.startswith("m2gym-"):
            continue
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            kept.append(f"{folder} ({error})")
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_groups(folder)
            if _remove_state(folder):
                removed.append(folder.name)
            else:
                kept.append(os.fspath(folder))
        except BlockingIOError:
            continue
        except OSError as error:
            kept.append(f"{folder} ({error})")
        finally:
            os.close(lock)
    if kept:
        warnings.warn(
            f"left behind by dead processes and not removable: {', '.join(kept)}; "
            "remove them by hand",
            RuntimeWarning,
            stacklevel=2,
        )
    return removed


def _remove_groups(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        parents = [Path(p) for p in (folder / "groups").read_text().splitlines()]
        remove_groups_of(folder.name, parents)


def _remove_state(folder: Path) -> bool:
    """Remove an owner's folder, its list of groups and its lock last: while anything is left, the
    next sweep finds it. Whether all of it went."""
    gone = True
    for entry in list(folder.iterdir()):
        if entry.name not in ("lock", "groups"):
            gone &= remove_tree(entry)
    if gone:
        for name in ("groups", "lock"):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    return gone


def remove_tree(path: Path) -> bool:
    """Remove a folder (or a file) whatever its modes and depth; missing is fine.

    Whether it is gone: what cannot be removed stays.
    """
    try:
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode):
            path.unlink()
            return True
        if info.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            path.chmod(stat.S_IRWXU)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            empty(fd)
        finally:
            os.close(fd)
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def full_disk(what: str) -> Iterator[None]:
    """Turn a full or failing disk of the host into `InfraError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENFILE):
            raise InfraError(f"{what} failed: {error}; free space on the host's disk") from error
        raise
