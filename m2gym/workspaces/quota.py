"""Disk and processor time: one thread looks at what running boxes used and kills those over it.

``RLIMIT_FSIZE`` bounds one file at once; this bounds their sum, seconds later than a quota would.
Measuring costs time in proportion to the number of changed files, and the thread rests ten times
as long as it measured. ``RLIMIT_CPU`` bounds one process; the box's control group, where there is
one, counts the time of all of them. After a box was killed for it, its time counts from zero again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
import weakref
from pathlib import Path
from typing import Protocol

from m2gym.core.errors import InfraError
from m2gym.core.task import WorkspaceSpec

PERIOD = 0.5
"""Seconds between looks, at least; the project's choice."""

LONG = 900
"""Characters of a path (at most 4 bytes each) after which it starts anew, so that no depth reaches
the kernel's 4096 bytes."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Watched(Protocol):
    """A box that the thread looks at."""

    spec: WorkspaceSpec

    @property
    def running(self) -> bool: ...
    def changed(self) -> Path: ...
    def cpu_seconds(self) -> float: ...
    def kill_for(self, reason: str) -> None: ...


_boxes: weakref.WeakSet[Watched] = weakref.WeakSet()
_paid: weakref.WeakKeyDictionary[Watched, float] = weakref.WeakKeyDictionary()
_guard = threading.Lock()
_thread: threading.Thread | None = None


def watch(box: Watched) -> None:
    """Hold a box to its ``limits.disk_mb`` and ``limits.cpu_seconds`` while it runs."""
    global _thread
    if _limit(box) is None and box.spec.limits.cpu_seconds is None:
        return
    with _guard:
        _boxes.add(box)
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_look, name="m2gym-limits", daemon=True)
            _thread.start()


class _Place:
    """An open folder from which paths are counted on, closed when nothing needs it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def used(folder: Path, enough: int) -> int:
    """Bytes allotted below a folder of any depth; stops counting beyond ``enough``."""
    try:
        stack = [(_Place(os.open(folder, _FOLDER)), ".")]
    except OSError:
        return 0
    total = 0
    while stack and total <= enough:
        place, path = stack.pop()
        try:
            fd = os.open(path, _FOLDER, dir_fd=place.fd)
            if len(path) > LONG:
                place, path = _Place(os.dup(fd)), "."
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        info = entry.stat(follow_symlinks=False)
                        total += info.st_blocks * 512
                        if stat.S_ISDIR(info.st_mode):
                            stack.append((place, f"{path}/{entry.name}"))
            finally:
                os.close(fd)
        except OSError:
            continue
    return total


def _limit(box: Watched) -> int | None:
    megabytes = box.spec.limits.disk_mb
    return None if megabytes is None else megabytes << 20


def _hold(box: Watched) -> None:
    limit, seconds = _limit(box), box.spec.limits.cpu_seconds
    if limit is not None and used(box.changed(), limit) > limit:
        box.kill_for(f"the disk limit of {limit >> 20} MiB was exceeded")
    if seconds is not None:
        total = box.cpu_seconds()
        if total - _paid.get(box, 0.0) > seconds:
            _paid[box] = total
            box.kill_for(f"the limit of {seconds:g} s of processor time was exceeded")


def _look() -> None:
    while True:
        began = time.monotonic()
        with _guard:
            boxes = [box for box in _boxes if box.running]
        if not boxes:
            with _guard:
                if not any(box.running for box in _boxes):
                    return
        for box in boxes:
            with contextlib.suppress(OSError, InfraError):
                _hold(box)
        del boxes
        time.sleep(max(PERIOD, 10 * (time.monotonic() - began)))
