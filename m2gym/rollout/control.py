"""A run's state for onlookers, and its limits from them, through two small files in its folder.

`m2gym ctl` writes ``control.json`` (the limits wanted); the driver looks at it twice a second and
writes ``status.json`` (the limits in force, and how far it is). Files serve every shared disk and
leave no socket behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from m2gym.core.errors import InputError
from m2gym.rollout.gates import AtOnce, Gates
from m2gym.rollout.run_folder import LOCK, is_locked, write_whole

CONTROL, STATUS = "control.json", "status.json"
PERIOD = 0.5
"""Seconds between two looks; the project's choice."""


class Control:
    """The driver's side: an async context manager around a run."""

    def __init__(self, path: Path, gates: Gates, state: Callable[[], dict[str, Any]]) -> None:
        self.path, self.gates, self.state = path, gates, state
        self._seen = self._mark()
        self._problem: str | None = None

    async def __aenter__(self) -> Control:
        self.write()
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        self.write()

    def write(self) -> None:
        """Write ``status.json``; a full disk must not stop the run for it."""
        status = {
            "pid": os.getpid(),
            "updated": time.time(),
            "at_once": self.gates.at_once.model_dump(),
            "gates": self.gates.state(),
            "refused": self._problem,
            **self.state(),
        }
        with contextlib.suppress(OSError):
            write_whole(self.path / STATUS, json.dumps(status, indent=1) + "\n", sync=False)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            mark = self._mark()
            if mark != self._seen:
                self._seen = mark
                self._apply()
            self.write()

    def _mark(self) -> tuple[int, int] | None:
        try:
            found = (self.path / CONTROL).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _apply(self) -> None:
        try:
            wanted = AtOnce.model_validate_json((self.path / CONTROL).read_text("utf-8"))
        except (OSError, ValidationError) as error:
            self._problem = f"{CONTROL} cannot be used: {str(error)[:300]}"
            return
        self._problem = None
        self.gates.set(wanted)


def status(path: Path) -> dict[str, Any]:
    """What the driver last told, and whether it lives.

    Raises:
        InputError: no driver has written there.
    """
    try:
        found: dict[str, Any] = json.loads((path / STATUS).read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} has no {STATUS}: no driver has run there ({error})") from error
    found["running"] = is_locked(path / LOCK)
    return found


def ask(path: Path, changes: dict[str, str], *, patience: float = 10.0) -> dict[str, Any]:
    """Change limits of a running run; its status once they are in force.

    Args:
        changes: gate → number, or ``none`` for no bound.
        patience: seconds to wait for the driver.

    Raises:
        InputError: no such gate, not a number, no driver is running, or it does not answer.
    """
    now = status(path)
    if not now["running"]:
        raise InputError(f"no driver is running in {path}; start it with: m2gym eval --resume")
    wanted = parse_at_once(changes, AtOnce.model_validate(now["at_once"]))
    write_whole(path / CONTROL, wanted.model_dump_json() + "\n", sync=False)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        now = status(path)
        if now["at_once"] == wanted.model_dump():
            return now
        if now["refused"]:
            raise InputError(str(now["refused"]))
        if not now["running"]:
            raise InputError(f"the driver of {path} has ended meanwhile")
        time.sleep(PERIOD / 5)
    raise InputError(f"the driver of {path} did not take the change within {patience:g} s")


def parse_at_once(changes: dict[str, str], base: AtOnce | None = None) -> AtOnce:
    """Limits from text, over ``base``.

    >>> parse_at_once({"model_calls": "8", "boxes": "none"}).model_calls
    8
    """
    values = (base or AtOnce()).model_dump()
    for name, text in changes.items():
        if name not in values:
            raise InputError(f"no limit {name!r}; there are {', '.join(values)}")
        try:
            values[name] = None if text.lower() == "none" else float(text)
            AtOnce.model_validate({name: values[name]})
        except (ValueError, ValidationError):
            raise InputError(
                f"{name} is a number (0 pauses) or 'none' for no bound, got {text!r}"
            ) from None
    return AtOnce.model_validate(values)
