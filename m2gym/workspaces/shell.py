"""A persistent bash whose steps cost one round trip and no process.

The command's text lies in a shared file (descriptor 197 in the box); a fixed line on bash's own
standard input tells it to evaluate that text with ``/dev/null`` as input, and to write the exit
code and folder to descriptor 198. All output that a command wrote is in the output pipe before
that answer is, so the pipe is emptied of exactly what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from m2gym.core.errors import InputError, WorkspaceLostError
from m2gym.core.workspace import ExecResult, User
from m2gym.workspaces.channel import Failed
from m2gym.workspaces.results import TIMED_OUT, exit_code
from m2gym.workspaces.streams import CHUNK, open_pipe, waiting_bytes

if TYPE_CHECKING:
    from m2gym.workspaces.supervised import SupervisedWorkspace

_STEP = (
    b'mapfile -d "" -t __m2gym </dev/fd/197; __m2gym_status $__m2gym_last; '
    b'eval "${__m2gym[0]}" </dev/null; __m2gym_last=$?; '
    b'printf "%d %s\\0" $__m2gym_last "$PWD" >&198'
)
_LINE = b'eval "$__m2gym_step"\n'
"""Short, because bash reads its input from a pipe byte by byte."""

_SETUP = (
    b"__m2gym_status() { return $1; }; __m2gym_last=0; readonly __m2gym_step='" + _STEP + b"'; "
    b'printf "0 %s\\0" "$PWD" >&198\n'
)

_SPOILT = b"unexpected EOF while looking for matching `)'"
"""After this bash 5.2 has spoilt its own memory (seen in 5.2.15) and aborts in a later command, so
such a shell is replaced at once."""


class PersistentShell:
    """The contract's `Shell` over a supervised workspace."""

    def __init__(self, workspace: SupervisedWorkspace, user: User | None) -> None:
        self._workspace, self._user = workspace, user
        self._session: _Session | None = None
        self._folder = workspace.inner_workdir
        self._lock = asyncio.Lock()
        self._begun = False
        self.restarts = 0

    async def run(self, command: str, *, timeout: float | None = None) -> ExecResult:
        """Run a command; see `m2gym.core.workspace.Shell`."""
        text = os.fsencode(command)
        if b"\0" in text:
            raise InputError("a shell command cannot hold a NUL character")
        limits = self._workspace.spec.limits
        seconds = limits.exec_seconds if timeout is None else timeout
        async with self._lock:
            session = await self._ready()
            result = await session.run(text, seconds)
            self._folder = session.folder
            if result.exit_code == 2 and _SPOILT in result.stdout:
                await session.close()
            return result

    async def close(self) -> None:
        """End the shell and everything it started."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ready(self) -> _Session:
        session = self._session
        if session is not None and session.usable(asyncio.get_running_loop()):
            return session
        if session is not None:
            await session.close()
        await self._workspace.ensure_started()
        for folder in (self._folder, self._workspace.inner_workdir, "/"):
            session = _Session(self._workspace, self._user, folder)
            if await session.begin():
                if self._begun:
                    self.restarts += 1
                self._begun, self._session = True, session
                return session
        raise WorkspaceLostError("no shell could be started in the box: it has no room for one")


class _Session:
    """One bash process."""

    def __init__(self, workspace: SupervisedWorkspace, user: User | None, folder: str) -> None:
        self._workspace, self.folder = workspace, folder
        self._limit = workspace.spec.limits.output_bytes
        self._loop = asyncio.get_running_loop()
        owner = workspace.owner(user)
        self._output, output = open_pipe(owner, read_here=True)
        self._answers, answers = open_pipe(owner, read_here=True)
        self._orders, orders = open_pipe(owner, read_here=False)
        self._text, name = tempfile.mkstemp(dir=workspace.scratch())
        shown = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        Path(name).unlink()
        os.fchmod(self._text, 0o444)
        self._parts: list[bytes] = []
        self._kept, self._truncated = 0, False
        self._answer = b""
        self._step: asyncio.Future[bytes | None] | None = None
        self._closed = False
        try:
            self._number, self._exit = workspace.channel.execute(
                [b"bash", b"--noprofile", b"--norc"],
                workspace.environment(user, None),
                os.fsencode(folder),
                workspace.ids(user),
                [orders, output, output, shown, answers],
            )
        except BaseException:
            self._release()
            raise
        finally:
            for fd in (orders, output, answers, shown):
                os.close(fd)
        self._loop.add_reader(self._output, self._read_output)
        self._loop.add_reader(self._answers, self._read_answer)
        self._exit.add_done_callback(self._ended)

    async def begin(self) -> bool:
        """Whether bash came up."""
        answer = await self._ask(_SETUP)
        if answer is not None:
            return True
        self._exit.result()
        await self.close()
        return False

    def usable(self, loop: asyncio.AbstractEventLoop) -> bool:
        return not self._closed and not self._exit.done() and self._loop is loop

    async def run(self, text: bytes, seconds: float) -> ExecResult:
        began = time.monotonic()
        os.pwrite(self._text, text, 0)
        os.ftruncate(self._text, len(text))
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            self._workspace.channel.kill_later(self._number)

        timer = self._loop.call_later(seconds, expire)
        try:
            answer = await self._ask(_LINE)
        except asyncio.CancelledError:
            self._workspace.channel.kill_later(self._number)
            self._release()
            raise
        finally:
            timer.cancel()
        self._drain()
        oom = False
        if answer is None:
            status = self._exit.result()
            code = exit_code(status) if not isinstance(status, Failed) else 126
            if late:
                await self._workspace.channel.kill(self._number)
            code = TIMED_OUT if late else code
        else:
            number, _, folder = answer.partition(b" ")
            code, self.folder = int(number), os.fsdecode(folder)
        if code:
            oom = self._workspace.oom_since()
        data, truncated = b"".join(self._parts), self._truncated
        self._parts, self._kept, self._truncated = [], 0, False
        if answer is None:
            self._release()
        note = self._workspace.take_note()
        return ExecResult(code, data + note, b"", truncated, late, oom, time.monotonic() - began)

    async def close(self) -> None:
        if not self._exit.done() and not self._workspace.channel.closed:
            with contextlib.suppress(WorkspaceLostError):
                await self._workspace.channel.kill(self._number)
        self._release()

    async def _ask(self, line: bytes) -> bytes | None:
        """Send a line; bash's answer, or ``None`` when it ended instead."""
        if self._exit.done():
            return None
        self._step = self._loop.create_future()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, line)
        try:
            return await self._step
        finally:
            self._step = None

    def _read_answer(self) -> None:
        try:
            data = os.read(self._answers, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._answers)
            return
        self._answer += data
        if self._answer.endswith(b"\0"):
            answer, self._answer = self._answer[:-1], b""
            if self._step is not None and not self._step.done():
                self._step.set_result(answer.rpartition(b"\0")[2])

    def _ended(self, future: asyncio.Future[int | Failed]) -> None:
        if self._step is not None and not self._step.done():
            if future.cancelled() or future.exception() is None:
                self._step.set_result(None)
            else:
                self._step.set_exception(future.exception() or WorkspaceLostError("lost"))

    def _read_output(self, size: int = CHUNK) -> int:
        try:
            data = os.read(self._output, size)
        except BlockingIOError:
            return 0
        if not data:
            self._loop.remove_reader(self._output)
            return 0
        room = self._limit - self._kept
        if room > 0:
            self._parts.append(data[:room])
            self._kept += min(room, len(data))
        if len(data) > room:
            self._truncated = True
        return len(data)

    def _drain(self) -> None:
        left = waiting_bytes(self._output)
        while left > 0 and (got := self._read_output(min(left, CHUNK))):
            left -= got

    def _release(self) -> None:
        if self._closed:
            return
        self._closed = True
        for fd in (self._output, self._answers):
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)
            os.close(fd)
        os.close(self._orders)
        os.close(self._text)
