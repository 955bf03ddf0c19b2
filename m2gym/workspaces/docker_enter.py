"""The way into containers whose image holds no Python, on machines without a C compiler.

Process 1 of the container is then a shell that waits for its owner's end; the supervisor is run on
the host, enters the container's control groups, namespaces and root, and gives up what a box's root
may not (``supervisor.py enter``). The image needs ``sh`` to be kept alive and ``bash`` for what
every box needs it for.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from m2gym.workspaces import seccomp
from m2gym.workspaces.helper import INSIDE, python_helper

ALIVE = "alive"
"""A pipe in the folder that the container sees: it closes with its owner."""

KEEPER = ["sh", "-c", 'read -r never < "$0"', f"{INSIDE}/{ALIVE}"]

_NUMBERS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "NET_BIND_SERVICE": 10, "SYS_CHROOT": 18,
}  # fmt: skip
"""Capabilities by number (``capabilities(7)``)."""


def pipe(folder: Path) -> int:
    """Make the pipe; a descriptor that holds it open."""
    path = folder / ALIVE
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def enter(
    pid: int, channel: int, bounds: tuple[int, ...], may: list[str]
) -> subprocess.Popen[bytes]:
    """Run a supervisor in the container of process ``pid``, over the descriptor ``channel``.

    Args:
        bounds: what `m2gym.workspaces.limits.rlimits` gives.
        may: the capabilities that user 0 keeps.
    """
    *python, script = python_helper().host
    mask = sum(1 << _NUMBERS[name] for name in may)
    with tempfile.TemporaryFile() as code, Path(script).open() as program:
        code.write(seccomp.program() or b"")
        code.seek(0)
        words = [channel, *bounds, pid, mask, code.fileno()]
        return subprocess.Popen(
            [*python, "-", "enter", *map(str, words)],
            env={},
            stdin=program,
            stdout=subprocess.DEVNULL,
            pass_fds=[channel, code.fileno()],
            start_new_session=True,
        )
