"""The host's end of the socket to a supervisor.

Packets on a ``SOCK_SEQPACKET`` pair. A request is six native 32-bit integers (operation, id, a, b,
number of arguments, number of variables), then NUL-terminated strings: the working folder, the
arguments, the environment; file descriptors ride along. A reply is four integers (operation, id,
a, b). The codes are those of ``native/supervisor.h``.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import itertools
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from m2gym.core.errors import InfraError, InputError, WorkspaceLostError

EXEC, KILL, SIGNAL, KILLALL, LISTEN = 1, 2, 3, 4, 5
HELLO, EXITED, FAILED, GONE, SOCKET = 100, 101, 102, 103, 104

MAX_ARGUMENTS = 120_000
"""Bytes of arguments and environment of one command (the kernel's own bound on one argument is
131,072); the project's choice."""

MAX_COUNT = 8000
"""Arguments and variables of one command; the supervisor's table."""

_REQUEST, _REPLY = struct.Struct("=IIiiII"), struct.Struct("=IIii")
_FDS = socket.CMSG_SPACE(array.array("i").itemsize) + socket.CMSG_SPACE(struct.calcsize("3i"))


@dataclass(frozen=True)
class Failed:
    """A command that could not be started: the errno and the stage it failed in."""

    number: int
    stage: int


class Channel:
    """Requests to one supervisor. It follows whichever event loop awaits it."""

    def __init__(self, connection: socket.socket | None = None) -> None:
        """Over ``connection``, or over a new pair whose other end is `peer`."""
        self.peer: socket.socket
        try:
            if connection is None:
                self._socket, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            else:
                self._socket = self.peer = connection
        except OSError as error:
            raise InfraError(
                f"no socket to the box: {error}; raise the limit (ulimit -n)"
            ) from error
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._ids = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exits: dict[int, asyncio.Future[int | Failed]] = {}
        self._gone: dict[int, asyncio.Future[None]] = {}
        self._sockets: dict[int, asyncio.Future[socket.socket | Failed]] = {}
        self._hello: asyncio.Future[tuple[int, int]] | None = None
        self.lost: Callable[[], WorkspaceLostError] = lambda: WorkspaceLostError("the box died")
        self.closed = False

    def attach(self) -> asyncio.AbstractEventLoop:
        """Read replies on the running loop."""
        loop = asyncio.get_running_loop()
        if self.closed:
            raise self.lost()
        if self._loop is not loop:
            old, self._loop = self._loop, loop
            if old is not None and not old.is_closed():
                old.call_soon_threadsafe(old.remove_reader, self._socket.fileno())
            loop.add_reader(self._socket.fileno(), self._readable)
        return loop

    async def hello(self) -> tuple[int, int]:
        """The box's root folder as a descriptor and its process 1's id, once it runs."""
        self._hello = self.attach().create_future()
        return await self._hello

    def execute(
        self,
        arguments: Sequence[bytes],
        environment: Sequence[bytes],
        cwd: bytes,
        ids: tuple[int, int],
        fds: Sequence[int],
    ) -> tuple[int, asyncio.Future[int | Failed]]:
        """Start a command; its id and the future of its wait status."""
        loop = self.attach()
        text = b"\0".join((cwd, *arguments, *environment, b""))
        if len(text) > MAX_ARGUMENTS or len(arguments) + len(environment) > MAX_COUNT:
            raise InputError(
                f"expected at most {MAX_ARGUMENTS} bytes of arguments and environment, got "
                f"{len(text)}; write the data to a file or pass it as stdin"
            )
        number = next(self._ids)
        future: asyncio.Future[int | Failed] = loop.create_future()
        self._exits[number] = future
        try:
            self._send(EXEC, number, *ids, len(arguments), len(environment), text, fds)
        except BaseException:
            del self._exits[number]
            raise
        return number, future

    async def kill(self, number: int) -> None:
        """Kill a command and everything it started; returns when all of it is gone."""
        future: asyncio.Future[None] | None = self._gone.get(number)
        if future is None:
            future = self.attach().create_future()
            self._gone[number] = future
            self._send(KILL, number, number, 9)
        await asyncio.shield(future)

    def kill_later(self, number: int) -> None:
        """Ask for `kill` without waiting; a box that is gone is fine."""
        if not self.closed:
            with contextlib.suppress(InfraError):
                self._send(KILL, number, number, 9)

    async def kill_all(self) -> None:
        """Kill every process of the box but process 1."""
        number = next(self._ids)
        future: asyncio.Future[None] = self.attach().create_future()
        self._gone[number] = future
        self._send(KILLALL, number)
        await future

    def kill_everything_later(self) -> None:
        """Ask for `kill_all` from any thread, without waiting."""
        self._send(KILLALL, next(self._ids))

    def signal(self, number: int, signal: int) -> None:
        self.attach()
        self._send(SIGNAL, number, number, signal)

    async def listen(self, port: int) -> socket.socket:
        """A socket that listens on the box's own 127.0.0.1."""
        number = next(self._ids)
        future: asyncio.Future[socket.socket | Failed] = self.attach().create_future()
        self._sockets[number] = future
        self._send(LISTEN, number, port)
        answer = await future
        if isinstance(answer, Failed):
            if answer.number == errno.EADDRINUSE:
                raise InputError(f"port {port} is already taken in the box; choose another")
            raise InfraError(f"listening on port {port}: {os.strerror(answer.number)}")
        return answer

    def close(self) -> None:
        """Close the socket, at which the supervisor ends; pending requests fail."""
        if self.closed:
            return
        self.closed = True
        if self._loop is not None and not self._loop.is_closed():
            try:
                here = asyncio.get_running_loop() is self._loop
            except RuntimeError:
                here = False
            if here:
                self._loop.remove_reader(self._socket.fileno())
                self._fail()
            elif self._loop.is_running():
                loop, number = self._loop, self._socket.fileno()
                loop.call_soon_threadsafe(self._end_there, loop, number)
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _end_there(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        loop.remove_reader(number)
        self._fail()

    def _send(
        self,
        operation: int,
        number: int,
        a: int = 0,
        b: int = 0,
        argc: int = 0,
        envc: int = 0,
        text: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        body = _REQUEST.pack(operation, number, a, b, argc, envc) + text
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([body], rights)
        except BlockingIOError:
            self._socket.setblocking(True)
            self._socket.settimeout(10)
            try:
                self._socket.sendmsg([body], rights)
            except TimeoutError:
                raise WorkspaceLostError("the box's supervisor answers no more") from None
            finally:
                self._socket.setblocking(False)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTCONN):
                raise self.lost() from error
            raise InfraError(f"asking the box's supervisor failed: {error}") from error

    def _readable(self) -> None:
        """Take one packet; where there are more, the loop calls again."""
        if self.closed:
            return
        try:
            data, rights, _, _ = self._socket.recvmsg(64, _FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, rights = b"", []
        if not data:
            self.close()
            return
        operation, number, a, b = _REPLY.unpack(data)
        self._reply(operation, number, a, b, rights)

    def _reply(
        self,
        operation: int,
        number: int,
        a: int,
        b: int,
        rights: Sequence[tuple[int, int, bytes]],
    ) -> None:
        if operation == EXITED:
            _resolve(self._exits.pop(number, None), a)
        elif operation == FAILED:
            _resolve(self._exits.pop(number, None), Failed(a, b))
            _resolve(self._sockets.pop(number, None), Failed(a, b))
        elif operation == GONE:
            _resolve(self._gone.pop(number, None), None)
        else:
            fd = pid = -1
            for level, kind, value in rights:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fd = struct.unpack("i", value[:4])[0]
                elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = struct.unpack("3i", value)[0]
            if operation == HELLO:
                _resolve(self._hello, (fd, pid))
            elif operation == SOCKET:
                _resolve(self._sockets.pop(number, None), socket.socket(fileno=fd))

    def _fail(self) -> None:
        """Fail whatever still waits; nothing of a dead box may hang."""
        waiting: list[asyncio.Future[Any]] = []
        for table in (self._exits, self._gone, self._sockets):
            waiting += table.values()
            table.clear()
        if self._hello is not None:
            waiting.append(self._hello)
        for future in waiting:
            if not future.done():
                future.set_exception(self.lost())
                future.exception()


def _resolve(future: asyncio.Future[Any] | None, value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)
