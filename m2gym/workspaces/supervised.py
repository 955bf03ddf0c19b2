"""What every workspace with our supervisor in it can do: commands, shells, files, sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from m2gym.core.errors import InfraError, InputError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Command, ExecResult, User
from m2gym.workspaces.allowlist import Gate
from m2gym.workspaces.bubblewrap import AGENT, GRADER, HOMES
from m2gym.workspaces.channel import Channel, Failed
from m2gym.workspaces.files import Owner, Tree
from m2gym.workspaces.results import TIMED_OUT, exit_code, failure
from m2gym.workspaces.shell import PersistentShell
from m2gym.workspaces.spawned import SupervisedProcess
from m2gym.workspaces.state import State
from m2gym.workspaces.streams import Collector, Sink, open_pipe

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LONG_SCRIPT = 60_000
_NUMBERS = {"root": 0, "agent": AGENT, "grader": GRADER}
WATCH_AFTER = 0.003
"""Seconds after which a command's output is read as it comes, not only at its end; the project's
choice."""


class SupervisedWorkspace:
    """Base of workspaces whose processes a supervisor starts; see `m2gym.core.workspace`."""

    kind = "supervised"

    def __init__(self, spec: WorkspaceSpec, capabilities: frozenset[str]) -> None:
        self.spec, self.capabilities = spec, capabilities
        self.inner_workdir = spec.workdir
        self.channel: Channel
        self.tree: Tree
        self._null = -1
        self._note = b""
        self._feeding: set[asyncio.Task[None]] = set()
        self._left: set[Collector] = set()
        self._environments: dict[User | None, list[bytes]] = {}
        self._starting: asyncio.Task[None] | None = None
        self.gate: Gate | None = None
        """The way to the allowed hosts, where the network is an allowlist."""
        self._started = self._stopped = False

    async def start(self) -> None:
        """Make the files and bring the box up."""
        await self.ensure_started()

    async def ensure_started(self) -> None:
        """Start the box if it is not running yet; those who ask meanwhile wait for the same."""
        if self._started:
            return
        if self._stopped:
            raise WorkspaceLostError("this workspace was stopped; make a new one")
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._come_up())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        finally:
            if starting.done():
                self._starting = None

    async def _come_up(self) -> None:
        try:
            await self._start()
        except BaseException:
            await asyncio.to_thread(self.stop_now)
            raise
        if self.spec.network == "allowlist":
            gate = self.gate or Gate(self.spec.allowed_hosts)
            await gate.open(await self.channel.listen(0))
            self.gate = gate
        self._environments.clear()

    async def _start(self) -> None:
        """Bring the box up; whatever it raises, the box is then stopped."""
        raise WorkspaceLostError(f"the {self.kind} workspace cannot be started")

    async def stop(self) -> None:
        """Kill and remove everything of the box; idempotent."""
        starting = self._starting
        if starting is not None:
            with contextlib.suppress(InfraError, InputError, asyncio.CancelledError):
                await starting
        if not self._stopped:
            self._stopped = True
            self._end_processes()
            await asyncio.to_thread(self._remove)

    def stop_now(self) -> None:
        """`stop` without an event loop."""
        if not self._stopped:
            self._stopped = True
            self._end_processes()
            self._remove()

    def _end_processes(self) -> None:
        """Close the channel, at which the box's processes end. Its files stay."""
        self._started = False
        if hasattr(self, "channel"):
            self.channel.close()
            self._drop_streams()
            if hasattr(self, "tree"):
                self.tree.close()
                del self.tree

    def _remove(self) -> None:
        """Remove what is left of a box whose processes were ended."""

    @property
    def running(self) -> bool:
        """Whether the box is up."""
        return self._started and not self._stopped

    def kill_for(self, reason: str) -> None:
        """Kill every process from any thread, and say why in the next result."""
        self._note = f"m2gym: {reason}\n".encode()
        with contextlib.suppress(InfraError, OSError):
            self.channel.kill_everything_later()

    def number(self, user: User | None) -> int:
        """A user's id inside a box that has several."""
        try:
            return _NUMBERS[user or self.spec.user]
        except KeyError:
            raise InputError(f"expected user agent, grader or root, got {user!r}") from None

    def ids(self, user: User | None) -> tuple[int, int]:
        """User and group id inside the box; -1 keeps the supervisor's."""
        number = self.number(user)
        return (number, number) if "users" in self.capabilities else (-1, -1)

    def owner(self, user: User | None) -> Owner:
        """The same user's ids on the host."""
        return None

    def home(self, user: User | None) -> str:
        self.number(user)
        return HOMES[user or self.spec.user] if "users" in self.capabilities else HOMES["agent"]

    def oom_since(self) -> bool:
        """Whether the kernel killed a process of the box for memory since the last call."""
        return False

    def take_note(self) -> bytes:
        """A message of ours for the next result (why the box was killed), once."""
        note, self._note = self._note, b""
        return note

    def scratch(self) -> Path:
        """A folder of the host for short-lived files."""
        return State.get().path

    def environment(self, user: User | None, extra: Mapping[str, str] | None) -> list[bytes]:
        """The whole environment of a command: nothing of the host's is in it."""
        name = (user or self.spec.user) if "users" in self.capabilities else "agent"
        variables = {
            "PATH": PATH,
            "HOME": self.home(user),
            "USER": name,
            "LOGNAME": name,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **({} if self.gate is None else self.gate.variables()),
            **self.spec.env,
            **(extra or {}),
        }
        for key, value in variables.items():
            if not key or "=" in key or "\0" in key + value:
                raise InputError(f"expected a variable's name and value without NUL, got {key!r}")
        return [os.fsencode(f"{key}={value}") for key, value in variables.items()]

    def _begin(
        self,
        command: Command,
        user: User | None,
        cwd: str | None,
        env: Mapping[str, str] | None,
        fds: Sequence[int],
    ) -> tuple[int, asyncio.Future[int | Failed], str, str]:
        extra = -1
        if isinstance(command, str):
            if len(command) > _LONG_SCRIPT:
                extra = self._script(command)
                arguments = [b"bash", b"/dev/fd/197"]
            else:
                arguments = [b"bash", b"-c", os.fsencode(command)]
        else:
            arguments = [os.fsencode(part) for part in command]
        if not arguments or any(b"\0" in part for part in arguments):
            raise InputError(f"expected a command without NUL characters, got {command!r}")
        folder = self.inside(cwd)
        variables = self._environments.get(user) if env is None else None
        if variables is None:
            variables = self.environment(user, env)
            if env is None:
                self._environments[user] = variables
        try:
            number, future = self.channel.execute(
                arguments,
                variables,
                os.fsencode(folder),
                self.ids(user),
                [*fds, *([extra] if extra >= 0 else [])],
            )
        finally:
            if extra >= 0:
                os.close(extra)
        return number, future, os.fsdecode(arguments[0]), folder

    def inside(self, cwd: str | None) -> str:
        """A working folder as the box sees it."""
        return self.inner_workdir if cwd is None else posixpath.join(self.inner_workdir, cwd)

    def _script(self, text: str) -> int:
        fd, name = tempfile.mkstemp(dir=self.scratch())
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(os.fsencode(text))
                os.fchmod(fd, 0o444)
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            Path(name).unlink()

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
        """Run a fresh command to its end, both streams kept up to ``limits.output_bytes``."""
        await self.ensure_started()
        began, loop = time.monotonic(), self.channel.attach()
        seconds = self.spec.limits.exec_seconds if timeout is None else timeout
        owner, cap = self.owner(user), self.spec.limits.output_bytes
        out, out_there = open_pipe(owner, read_here=True)
        err, err_there = open_pipe(owner, read_here=True)
        source, sink = self._null, None
        if stdin is not None:
            ours, source = open_pipe(owner, read_here=False)
            sink = Sink(ours)
        try:
            number, ended, program, folder = self._begin(
                command, user, cwd, env, (source, out_there, err_there)
            )
        except BaseException:
            os.close(out)
            os.close(err)
            if sink is not None:
                sink.close()
            raise
        finally:
            os.close(out_there)
            os.close(err_there)
            if stdin is not None:
                os.close(source)
        streams = Collector(out, cap, loop), Collector(err, cap, loop)
        feeder = None
        if sink is not None:
            feeder = loop.create_task(sink.feed(stdin or b""))
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            self.channel.kill_later(number)

        def watch() -> None:
            for stream in streams:
                stream.watch()

        timer = loop.call_later(seconds, expire)
        watcher = loop.call_later(WATCH_AFTER, watch)
        try:
            status = await ended
            if late:
                await self.channel.kill(number)
        except BaseException:
            self.channel.kill_later(number)
            for stream in streams:
                stream.close()
            raise
        finally:
            timer.cancel()
            watcher.cancel()
            if feeder is not None:
                feeder.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await feeder
        for stream in streams:
            stream.finish()
            if not stream.ended:
                self._left.add(stream)
        message = b""
        if isinstance(status, Failed):
            code, message = failure(status, program, folder)
        else:
            code = TIMED_OUT if late else exit_code(status)
        oom = bool(code) and self.oom_since()
        return ExecResult(
            code,
            streams[0].take(),
            streams[1].take() + message + self.take_note(),
            streams[0].truncated or streams[1].truncated,
            late,
            oom,
            time.monotonic() - began,
        )

    async def spawn(
        self,
        command: Command,
        *,
        user: User | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> SupervisedProcess:
        """Start a command and return at once."""
        await self.ensure_started()
        owner = self.owner(user)
        ours, theirs = zip(
            open_pipe(owner, read_here=False),
            open_pipe(owner, read_here=True),
            open_pipe(owner, read_here=True),
            strict=True,
        )
        try:
            number, ended, program, folder = self._begin(command, user, cwd, env, theirs)
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return SupervisedProcess(self, number, ended, program, folder, ours)

    async def shell(self, *, user: User | None = None) -> PersistentShell:
        """A persistent bash."""
        await self.ensure_started()
        return PersistentShell(self, user)

    async def read(self, path: str) -> bytes:
        """A regular file's bytes; links that lead outside raise `PermissionError`."""
        await self.ensure_started()
        return self.tree.read(self.outside(path))

    async def write(
        self, path: str, data: bytes, *, mode: int = 0o644, user: User | None = None
    ) -> None:
        """Put a file in place at once."""
        await self.ensure_started()
        self.tree.write(self.outside(path), data, mode, self.owner(user))

    async def export(self, paths: Sequence[str], *, base: str | None = None) -> bytes:
        """A tar of paths below the work folder, or below ``base``; `TooLargeError` beyond
        ``limits.disk_mb``, `TooDeepError` beyond 256 folders within each other."""
        await self.ensure_started()
        limit = self.spec.limits.disk_mb
        return await asyncio.to_thread(
            self.tree.export,
            [self.outside(path) for path in paths],
            None if limit is None else limit << 20,
            *([] if base is None else [self.outside(base)]),
        )

    async def unpack(self, tar: bytes, *, path: str = ".", user: User | None = None) -> None:
        """Put a tar's files below ``path``."""
        await self.ensure_started()
        await asyncio.to_thread(self.tree.unpack, tar, self.outside(path), self.owner(user))

    def outside(self, path: str) -> str:
        """A path of the box as `tree` knows it."""
        return path

    async def listen(self, port: int) -> socket.socket:
        """A listening socket on the box's own 127.0.0.1 (0: any free port)."""
        await self.ensure_started()
        return await self.channel.listen(port)

    async def kill(self) -> None:
        """Kill every process; the files stay and the box can be used again."""
        await self.ensure_started()
        await self.channel.kill_all()

    def _drop_streams(self) -> None:
        for stream in self._left:
            stream.close()
        self._left.clear()
        if self.gate is not None:
            self.gate.close()
        if self._null >= 0:
            os.close(self._null)
            self._null = -1
