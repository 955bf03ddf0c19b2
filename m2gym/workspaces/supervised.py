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

from m2gym.core.errors import CapabilityError, InputError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Command, ExecResult, User, Workspace
from m2gym.workspaces.bubblewrap import AGENT, GRADER, HOMES
from m2gym.workspaces.channel import Failed
from m2gym.workspaces.files import Owner
from m2gym.workspaces.life import Life
from m2gym.workspaces.results import TIMED_OUT, exit_code, failure
from m2gym.workspaces.shell import PersistentShell
from m2gym.workspaces.snapshot import Snapshot
from m2gym.workspaces.spawned import SupervisedProcess
from m2gym.workspaces.streams import Collector, Sink, open_pipe

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCALE = frozenset({"LANG", "LC_ALL", "LC_CTYPE"})
"""Where a task or an image names one of these, we say nothing. Else characters are UTF-8 by
``LC_CTYPE`` alone: ``LANG=C.UTF-8`` means the same, but each program then reads twelve files of
the locale instead of one, a fifth of the time that bash takes."""

_LONG_SCRIPT = 60_000
_NUMBERS = {"root": 0, "agent": AGENT, "grader": GRADER}
WATCH_AFTER = 0.003
"""Seconds after which a command's output is read as it comes, not only at its end; the project's
choice."""


class SupervisedWorkspace(Life):
    """Base of workspaces whose processes a supervisor starts; see `m2gym.core.workspace`."""

    def __init__(
        self,
        spec: WorkspaceSpec,
        capabilities: frozenset[str] = frozenset(),
        *,
        snapshot: Snapshot | None = None,
    ) -> None:
        super().__init__(spec, capabilities, snapshot)
        self.inner_workdir = spec.workdir
        self._left: set[Collector] = set()
        self._environments: dict[User | None, list[bytes]] = {}

    async def _come_up(self) -> None:
        self._environments.clear()
        await super()._come_up()

    def _end_processes(self) -> None:
        super()._end_processes()
        for stream in self._left:
            stream.close()
        self._left.clear()

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

    def environment(self, user: User | None, extra: Mapping[str, str] | None) -> list[bytes]:
        """The whole environment of a command: nothing of the host's is in it."""
        name = (user or self.spec.user) if "users" in self.capabilities else "agent"
        given = {**self.spec.env, **(extra or {})}
        variables = {
            "PATH": PATH,
            "HOME": self.home(user),
            "USER": name,
            "LOGNAME": name,
            "TERM": "dumb",
            **({} if LOCALE & given.keys() else {"LC_CTYPE": "C.UTF-8"}),
            **({} if self.gate is None else self.gate.variables()),
            **given,
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

    async def snapshot(self) -> Snapshot:
        """Freeze a copy of what the box has changed."""
        await self.ensure_started()
        return await self._freeze()

    async def restore(self, snapshot: object) -> None:
        """End the box's processes and put the files of a snapshot back."""
        if not isinstance(snapshot, Snapshot) or snapshot.kind != self.kind or snapshot.discarded:
            raise InputError(
                f"expected a snapshot of a workspace of kind {self.kind} that was not discarded"
            )
        await self.ensure_started()
        await self._thaw(snapshot)

    async def fork(self, n: int) -> list[Workspace]:
        """``n`` boxes with this one's files. Their processes come up with their first use."""
        if n < 1:
            raise InputError(f"expected to fork into at least one box, got {n}")
        await self.ensure_started()
        frozen = await self._freeze(n)
        return [type(self)(self.spec, snapshot=frozen) for _ in range(n)]

    async def _freeze(self, holders: int = 1) -> Snapshot:
        raise CapabilityError(f"the {self.kind} workspace cannot be frozen")

    async def _thaw(self, snapshot: Snapshot) -> None:
        raise CapabilityError(f"the {self.kind} workspace cannot be restored")
