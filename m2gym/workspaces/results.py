"""From what the kernel says about a command to an `ExecResult`'s numbers."""

from __future__ import annotations

import errno
import os

from m2gym.workspaces.channel import Failed

TIMED_OUT = 124
NOT_FOUND, NOT_RUNNABLE = 127, 126


def exit_code(status: int) -> int:
    """The shell's convention: the exit code, or 128 + the signal that ended the command."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def failure(failed: Failed, program: str, cwd: str) -> tuple[int, bytes]:
    """Exit code and message of a command that could not be started."""
    text = os.strerror(failed.number)
    if failed.stage == 2:
        return NOT_RUNNABLE, f"cannot enter {cwd}: {text}\n".encode()
    if failed.stage == 4 and failed.number == errno.ENOENT:
        return NOT_FOUND, f"{program}: command not found\n".encode()
    if failed.stage == 1:
        return NOT_RUNNABLE, f"no process could be started in the box: {text}\n".encode()
    return NOT_RUNNABLE, f"{program}: {text}\n".encode("utf-8", "surrogateescape")
