"""Pipes between the host and a command."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import termios
from collections.abc import AsyncIterator

from m2gym.core.errors import InfraError

CHUNK = 1 << 16


def open_pipe(owner: tuple[int, int] | None, *, read_here: bool) -> tuple[int, int]:
    """A pipe whose host's end does not block: (host's end, box's end). The box's user owns it, so
    that ``/dev/stdout`` and ``/dev/stderr`` can be opened there."""
    try:
        reader, writer = os.pipe()
    except OSError as error:
        raise InfraError(f"no pipe to the box: {error}; raise the limit (ulimit -n)") from error
    ours, theirs = (reader, writer) if read_here else (writer, reader)
    os.set_blocking(ours, False)
    if owner is not None:
        os.fchown(theirs, *owner)
    return ours, theirs


def waiting_bytes(fd: int) -> int:
    """How many bytes lie in a pipe."""
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


class Collector:
    """Reads a stream as it comes, keeps its first ``limit`` bytes and drops the rest.

    A command that ends before `watch` is called costs no readiness events: its output, which fits
    into the pipe, is taken by `finish`.
    """

    def __init__(self, fd: int, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        self._fd, self._limit, self._loop = fd, limit, loop
        self._parts: list[bytes] = []
        self._kept = 0
        self.truncated = False
        self.ended = self._watched = False

    def watch(self) -> None:
        """Read from now on whenever there is something."""
        if not self.ended and not self._watched:
            self._watched = True
            self._loop.add_reader(self._fd, self._read)

    def _read(self, size: int = CHUNK) -> int:
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            return 0
        if not data:
            self._close()
            return 0
        room = self._limit - self._kept
        if room > 0:
            self._parts.append(data[:room])
            self._kept += min(room, len(data))
        if len(data) > room:
            self.truncated = True
        return len(data)

    def finish(self) -> None:
        """Take what lies in the pipe now. Later bytes, of processes that the command left behind,
        are read and dropped, so that they are not stopped by a full or broken pipe."""
        if not self.ended:
            left = waiting_bytes(self._fd)
            while left > 0 and not self.ended and (got := self._read(min(left, CHUNK))):
                left -= got
        if not self.ended:
            self._read(1)
        self._limit = 0
        self.watch()

    def take(self) -> bytes:
        """What was kept since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._kept = 0
        return data

    def _close(self) -> None:
        if not self.ended:
            self.ended = True
            if self._watched and not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)

    close = _close


class Sink:
    """Writes bytes into a pipe as fast as it takes them; a closed reader ends it."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    async def write(self, data: bytes) -> None:
        """Raises `BrokenPipeError` when the command reads no more."""
        if self._fd is None:
            raise BrokenPipeError("the command's input is closed")
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view[:CHUNK]) :]
            except BlockingIOError:
                await _ready(self._fd, write=True)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def feed(self, data: bytes) -> None:
        """Write everything and close; a command that does not read it all is fine."""
        try:
            with contextlib.suppress(BrokenPipeError):
                await self.write(data)
        finally:
            self.close()


class Source:
    """Reads a pipe on demand: a slow reader slows the command down."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    async def chunks(self) -> AsyncIterator[bytes]:
        """Pieces until the end of the stream."""
        while self._fd is not None:
            try:
                data = os.read(self._fd, CHUNK)
            except BlockingIOError:
                await _ready(self._fd, write=False)
                continue
            if not data:
                self.close()
                return
            yield data

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


async def _ready(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    if write:
        loop.add_writer(fd, wake)
    else:
        loop.add_reader(fd, wake)
    try:
        await future
    finally:
        if write:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)
