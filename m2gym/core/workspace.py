"""The contract of a workspace: a box with files and commands."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from m2gym.core.task import WorkspaceSpec

Command = str | Sequence[str]
"""A string is run by ``bash -c``; a sequence is an argument vector."""

User = Literal["agent", "grader", "root"]
"""Users of a box. Without the capability ``users`` all three are the same one."""

Capability = Literal[
    "users",
    "fork",
    "listen",
    "network",
    "allowlist",
    "limits.memory",
    "limits.disk",
    "limits.processes",
    "limits.cpu",
    "sandbox",
    "image",
]


@dataclass(frozen=True)
class ExecResult:
    """What a command did. ``exit_code`` is 128 + n after signal n, 124 after a time-out."""

    exit_code: int
    stdout: bytes
    stderr: bytes = b""
    truncated: bool = False
    timed_out: bool = False
    oom: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Exit code 0."""
        return self.exit_code == 0

    @property
    def output(self) -> str:
        """Both streams as text, undecodable bytes replaced."""
        return (self.stdout + self.stderr).decode("utf-8", "replace")


class Process(Protocol):
    """A command that is running in the box."""

    async def write(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...
    def stdout(self) -> AsyncIterator[bytes]: ...
    def stderr(self) -> AsyncIterator[bytes]: ...
    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        ...

    async def wait(self) -> int:
        """The exit code, in `ExecResult`'s convention."""
        ...


class Shell(Protocol):
    """A persistent bash: ``cd``, ``export`` and functions survive between commands.

    A command that kills the shell, or that must be killed at its time-out, gives its result
    (exit code 124 after a time-out); the next command finds a new shell in the last known folder,
    and `restarts` counts it.
    """

    restarts: int

    async def run(self, command: str, *, timeout: float | None = None) -> ExecResult:
        """Run a command; both streams come in order in ``stdout``, binary-safe."""
        ...

    async def close(self) -> None: ...


class Snapshot(Protocol):
    """Files of a box at one moment (not processes). Freed by `discard`."""

    async def discard(self) -> None: ...


class Workspace(Protocol):
    """A box with files and commands. Every coroutine may raise `InfraError`.

    Relative paths are relative to ``spec.workdir``.
    """

    kind: str
    spec: WorkspaceSpec
    capabilities: frozenset[str]

    async def start(self) -> None: ...

    async def exec(
        self,
        command: Command,
        *,
        timeout: float | None = None,
        user: User | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> ExecResult:
        """Run a fresh command as ``user`` (default agent); at its time-out its whole process
        tree is killed. ``timeout`` defaults to ``spec.limits.exec_seconds``."""
        ...

    async def spawn(
        self,
        command: Command,
        *,
        user: User | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process: ...

    async def shell(self, *, user: User | None = None) -> Shell: ...

    async def read(self, path: str) -> bytes:
        """`FileNotFoundError` when there is none; links that lead outside are refused."""
        ...

    async def write(
        self, path: str, data: bytes, *, mode: int = 0o644, user: User | None = None
    ) -> None:
        """Write a file (folders are made), owned by ``user`` (default agent)."""
        ...

    async def export(self, paths: Sequence[str], *, base: str | None = None) -> bytes:
        """A tar of paths, taken without running anything the agent could have changed.

        Member names are relative to the work folder, or to ``base``, below which the paths lie.
        Missing paths are left out."""
        ...

    async def unpack(self, tar: bytes, *, path: str = ".", user: User | None = None) -> None:
        """Put a tar's files below ``path``; members that would leave it are refused."""
        ...

    async def listen(self, port: int) -> socket.socket:
        """A listening socket on the box's own 127.0.0.1, handed out to us."""
        ...

    async def kill(self) -> None:
        """Kill every process of the box; its files stay and it can be used again."""
        ...

    async def snapshot(self) -> Snapshot: ...

    async def restore(self, snapshot: Snapshot) -> None:
        """Kill the box's processes and put its files back to the snapshot."""
        ...

    async def fork(self, n: int) -> list[Workspace]:
        """``n`` started boxes with this one's files (not its processes), independent of it."""
        ...

    async def stop(self) -> None:
        """Kill and remove everything of the box; idempotent."""
        ...
