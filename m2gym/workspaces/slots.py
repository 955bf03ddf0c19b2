"""How many boxes an engine is asked for at once, over all processes of this user.

Three bounds, each the project's choice and set by the environment: boxes alive
(``M2GYM_BOXES``), boxes of graders alive (``M2GYM_GRADERS``: apart, so that agents that hold every
box cannot keep the grader they wait for from starting), and boxes made a second
(``M2GYM_BOXES_PER_SECOND``). A slot is a locked file: a process that dies gives its slots back.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from m2gym.core.errors import InfraError, InputError
from m2gym.workspaces.state import State

DEFAULTS = {"M2GYM_BOXES": 64, "M2GYM_GRADERS": 16, "M2GYM_BOXES_PER_SECOND": 10}
PATIENCE = 1800.0
"""Seconds that a box waits for a slot before its start fails; the project's choice."""

_grading: contextvars.ContextVar[bool] = contextvars.ContextVar("grading", default=False)


@contextlib.contextmanager
def for_grading() -> Iterator[None]:
    """Boxes started within count as a grader's."""
    token = _grading.set(True)
    try:
        yield
    finally:
        _grading.reset(token)


def bound(name: str) -> int:
    """A bound from the environment, or the default."""
    text = os.environ.get(name, str(DEFAULTS[name]))
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"{name} is a whole number from 1 on, got {text!r}")
    return int(text)


class Slot:
    """The right to have one box alive; given back by `release` or the process's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def acquire() -> Slot:
    """Wait for a slot, and for the next moment at which a box may be made.

    Raises:
        InfraError: none came free within `PATIENCE` seconds.
    """
    name = "M2GYM_GRADERS" if _grading.get() else "M2GYM_BOXES"
    folder = State.get().path.parent / "slots"
    folder.mkdir(mode=0o700, exist_ok=True)
    end, pause = time.monotonic() + PATIENCE, 0.01
    while (fd := _free(folder, name)) is None:
        if time.monotonic() > end:
            raise InfraError(
                f"{bound(name)} boxes are alive and none ended in {PATIENCE:g} s; "
                f"set {name} to allow more"
            )
        await asyncio.sleep(pause)
        pause = min(0.5, pause * 1.5)
    await asyncio.sleep(_turn(folder / "turn", 1 / bound("M2GYM_BOXES_PER_SECOND")))
    return Slot(fd)


def _free(folder: Path, name: str) -> int | None:
    for number in range(bound(name)):
        fd = os.open(folder / f"{name}-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            return fd
    return None


def _turn(path: Path, period: float) -> float:
    """Book the next moment; seconds until it. A burst of one second is free."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        now = time.monotonic()
        text = os.pread(fd, 64, 0).decode()
        booked = float(text) if text else 0.0
        if booked > now + PATIENCE:
            booked = 0.0
        following = max(booked, now - 1.0) + period
        os.pwrite(fd, f"{following:<40.6f}".encode(), 0)
        return max(0.0, following - now)
    finally:
        os.close(fd)
