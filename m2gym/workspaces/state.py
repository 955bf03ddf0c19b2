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
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from m2gym.core.errors import InfraError
from m2gym.workspaces.limits import hierarchy, remove_groups_of


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
        remove_tree(self.path)
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
    """Remove what dead owners left below ``base``; the names of the removed."""
    removed = []
    for folder in base.iterdir():
        if not folder.name.startswith("m2gym-"):
            continue
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            with contextlib.suppress(FileNotFoundError):
                parents = [Path(p) for p in (folder / "groups").read_text().splitlines()]
                remove_groups_of(folder.name, parents)
            remove_tree(folder)
            removed.append(folder.name)
        finally:
            os.close(lock)
    return removed


def remove_tree(path: Path) -> None:
    """Remove a folder whatever its modes are; missing is fine."""

    def retry(function: Callable[..., object], name: str, error: object) -> None:
        with contextlib.suppress(OSError):
            if Path(name) != path:
                Path(name).parent.chmod(0o700)
            if Path(name).is_dir() and not Path(name).is_symlink():
                Path(name).chmod(0o700)
                shutil.rmtree(name, ignore_errors=True)
            else:
                function(name)

    shutil.rmtree(path, onerror=retry)


@contextlib.contextmanager
def full_disk(what: str) -> Iterator[None]:
    """Turn a full or failing disk of the host into `InfraError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENFILE):
            raise InfraError(f"{what} failed: {error}; free space on the host's disk") from error
        raise
