"""A `Channel` carried over lines of text, for boxes on another machine.

Between the channel, which hands over pipes, and the box, which hands over nothing, stand two
relays: this one on the host and ``remote_agent.py`` in the box. Commands, time-outs, shells and
signals are therefore those of a local box; a byte costs more. The lines are described there.

::

    Channel ◄─ packets, descriptors ─► Remote ◄─ lines ─► agent ◄─ packets ─► supervisor
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import errno
import fcntl
import io
import itertools
import json
import os
import queue
import selectors
import socket
import stat
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from m2gym.core import errors
from m2gym.workspaces.channel import _REPLY, _REQUEST, EXEC, EXITED, FAILED, HELLO
from m2gym.workspaces.files import TooDeepError, TooLargeError

CHUNK, WINDOW = 1 << 15, 1 << 18
PACKET = 1 << 18
_HERE = Path(__file__).parent
_SENT = (
    "core/errors.py",
    *(f"workspaces/{n}.py" for n in ("files", "removal", "supervisor", "remote_files")),
    "workspaces/remote_agent.py",
)
_KNOWN: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (errors.InputError, TooLargeError, TooDeepError)
}


def program() -> bytes:
    """A zip that the box's ``python3`` runs."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as pack:
        for folder in ("m2gym", "m2gym/core", "m2gym/workspaces"):
            pack.writestr(f"{folder}/__init__.py", "")
        for name in _SENT:
            pack.write(_HERE.parent / name, f"m2gym/{name}")
        pack.writestr("__main__.py", "from m2gym.workspaces.remote_agent import main\nmain()\n")
    return out.getvalue()


class Remote:
    """Two threads between a channel's peer and a box: one reads its lines, one does the rest.

    Args:
        peer: the other end of a `Channel`; it is ours from now on.
        lines: what the box says, until it ends.
        send: writes text to the box.
        tick: called every ``period`` seconds.
    """

    def __init__(
        self,
        peer: socket.socket,
        lines: Iterator[str],
        send: Callable[[str], None],
        tick: Callable[[], None],
        period: float,
    ) -> None:
        self._peer, self._lines, self._send = peer, lines, send
        self._tick, self._period = tick, period
        self._came: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._wake, self._waker = os.pipe()
        self._select = selectors.DefaultSelector()
        self._said: list[str] = []
        self._keys, self._acts = itertools.count(1), itertools.count(1)
        self._streams: dict[int, _Stream] = {}
        self._commands: dict[int, _Command] = {}
        self._done: dict[int, concurrent.futures.Future[Any]] = {}
        self._guard = threading.Lock()
        self._over = False
        self.error: BaseException | None = None
        self.variables: dict[str, str] = {}
        self._threads = [
            threading.Thread(target=part, name=f"m2gym-remote-{part.__name__}", daemon=True)
            for part in (self._listen, self._serve)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def call(self, what: str, **named: Any) -> concurrent.futures.Future[Any]:
        """Have the box do an act of ``remote_files.py``."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._guard:
            if self._over:
                future.set_exception(errors.WorkspaceLostError(self.why()))
                return future
            number = next(self._acts)
            self._done[number] = future
        self._put({"op": "act", "line": {"op": "do", "id": number, "what": what, **named}})
        return future

    def why(self) -> str:
        """What ended it."""
        return f"the box is gone: {self.error or 'its agent ended'}"

    def _put(self, message: dict[str, Any]) -> None:
        with self._guard:
            if not self._over:
                self._came.put(message)
                os.write(self._waker, b"x")

    def _listen(self) -> None:
        text = ""
        try:
            for part in self._lines:
                text += part
                if "\n" in part:
                    *whole, text = text.split("\n")
                    for line in whole:
                        self._put(json.loads(line))
        except Exception as error:
            self.error = error
        self._put({"op": "lost"})

    def _serve(self) -> None:
        self._select.register(self._wake, selectors.EVENT_READ)
        self._select.register(self._peer, selectors.EVENT_READ)
        clock = _Clock(self._period)
        try:
            while self._turn(clock):
                text, self._said = "".join(self._said), []
                if text:
                    self._send(text)
        except Exception as error:
            self.error = self.error or error
        finally:
            self._end()

    def _turn(self, clock: _Clock) -> bool:
        """One round; whether there is another."""
        ready = {key.fd: key.data for key, _ in self._select.select(clock.left())}
        if clock.due():
            self._tick()
        if self._wake in ready:
            os.read(self._wake, 4096)
            while not self._came.empty():
                message = self._came.get()
                if message["op"] == "lost":
                    return False
                getattr(self, "_on_" + message.pop("op"))(**message)
        for stream in [s for s in ready.values() if isinstance(s, _Stream)]:
            if stream.fd >= 0 and stream.taking:
                self._take(stream)
            elif stream.fd >= 0:
                self._flush(stream.command)
        return self._peer.fileno() not in ready or self._request()

    def _say(self, **message: Any) -> None:
        self._said.append(json.dumps(message) + "\n")

    def _request(self) -> bool:
        """Pass on a packet of the channel's; whether the channel is still open."""
        data, rights, _, _ = self._peer.recvmsg(PACKET, 1024, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        fds = [
            int.from_bytes(value[at : at + 4], "little")
            for level, kind, value in rights
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
            for at in range(0, len(value) - 3, 4)
        ]
        operation, number, *_ = _REQUEST.unpack_from(data)
        streams = self._adopt(number, fds) if operation == EXEC else []
        self._say(op="ask", packet=base64.b64encode(data).decode(), streams=streams)
        return True

    def _adopt(self, number: int, fds: list[int]) -> list[list[Any]]:
        """Take over a command's descriptors; what the agent must make in their place."""
        command = self._commands[number] = _Command(number)
        told: list[list[Any]] = []
        seen: dict[int, list[Any]] = {}
        for fd in fds:
            about = os.fstat(fd)
            if about.st_ino in seen and stat.S_ISFIFO(about.st_mode):
                told.append(seen[about.st_ino])
                os.close(fd)
                continue
            stream = _Stream(next(self._keys), fd, command)
            entry: list[Any] = ["null", stream.key]
            if stat.S_ISCHR(about.st_mode):
                os.close(fd)
            elif stat.S_ISREG(about.st_mode):
                stream.content = _whole(fd)
                entry = ["file", stream.key, base64.b64encode(stream.content).decode()]
                command.files.append(stream)
            else:
                os.set_blocking(fd, False)
                stream.taking = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
                entry = ["in" if stream.taking else "out", stream.key]
                self._streams[stream.key] = stream
                command.streams.append(stream)
                seen[about.st_ino] = entry
                if stream.taking:
                    self._select.register(fd, selectors.EVENT_READ, stream)
            told.append(entry)
        return told

    def _take(self, stream: _Stream) -> None:
        """Pass on what the host wrote for a command, and files that it changed before."""
        try:
            data = os.read(stream.fd, CHUNK)
        except BlockingIOError:
            return
        for file in stream.command.files:
            content = _whole(file.fd)
            if content != file.content:
                file.content = content
                self._say(op="file", key=file.key, data=base64.b64encode(content).decode())
        if not data:
            self._close(stream)
            self._say(op="end", key=stream.key)
            return
        before, stream.window = stream.window, stream.window - len(data)
        if before > 0 >= stream.window:
            self._select.unregister(stream.fd)
        self._say(op="data", key=stream.key, data=base64.b64encode(data).decode())

    def _flush(self, command: _Command) -> None:
        """Hand a command's output to the host, in the order in which the box told it."""
        while command.waiting:
            stream, data = command.waiting[0]
            if stream is None:
                self._reply(command, data)
            elif not data:
                self._close(stream)
            elif stream.fd >= 0:
                try:
                    done = os.write(stream.fd, data)
                except BlockingIOError:
                    if not stream.watched:
                        stream.watched = True
                        self._select.register(stream.fd, selectors.EVENT_WRITE, stream)
                    return
                except BrokenPipeError:
                    self._close(stream)
                    self._say(op="shut", key=stream.key)
                else:
                    self._say(op="taken", key=stream.key, n=done)
                    if done < len(data):
                        command.waiting[0] = (stream, data[done:])
                        continue
            if stream is not None and stream.watched:
                stream.watched = False
                with contextlib.suppress(KeyError, ValueError):
                    self._select.unregister(stream.fd)
            command.waiting.popleft()
        if command.ended and all(stream.fd < 0 for stream in command.streams):
            self._forget(command)

    def _reply(self, command: _Command, packet: bytes) -> None:
        self._peer.send(packet)
        command.ended = True
        for stream in command.streams:
            if stream.taking:
                self._close(stream)
                self._say(op="end", key=stream.key)

    def _forget(self, command: _Command) -> None:
        for file in command.files:
            os.close(file.fd)
            self._say(op="end", key=file.key)
        self._commands.pop(command.number, None)

    def _close(self, stream: _Stream) -> None:
        if stream.fd >= 0:
            with contextlib.suppress(KeyError):
                self._select.unregister(stream.fd)
            os.close(stream.fd)
            stream.fd, stream.watched = -1, False
        self._streams.pop(stream.key, None)

    def _on_act(self, line: dict[str, Any]) -> None:
        self._say(**line)

    def _on_hello(self, env: dict[str, str]) -> None:
        self.variables = env
        null = os.open(os.devnull, os.O_RDONLY)
        socket.send_fds(self._peer, [_REPLY.pack(HELLO, 0, 0, 0)], [null])
        os.close(null)

    def _on_reply(self, packet: str) -> None:
        data = base64.b64decode(packet)
        operation, number, _, _ = _REPLY.unpack(data)
        command = self._commands.get(number)
        if operation in (EXITED, FAILED) and command is not None:
            command.waiting.append((None, data))
            self._flush(command)
        else:
            self._peer.send(data)

    def _on_data(self, key: int, data: str) -> None:
        stream = self._streams.get(key)
        if stream is not None:
            stream.command.waiting.append((stream, base64.b64decode(data)))
            self._flush(stream.command)

    def _on_end(self, key: int) -> None:
        stream = self._streams.get(key)
        if stream is not None:
            stream.command.waiting.append((stream, b""))
            self._flush(stream.command)

    def _on_taken(self, key: int, n: int) -> None:
        stream = self._streams.get(key)
        if stream is not None:
            before, stream.window = stream.window, stream.window + n
            if before <= 0 < stream.window:
                self._select.register(stream.fd, selectors.EVENT_READ, stream)

    def _on_shut(self, key: int) -> None:
        stream = self._streams.get(key)
        if stream is not None:
            self._close(stream)

    def _on_done(
        self, id: int, result: Any = None, error: tuple[str, int | None, str, str] | None = None
    ) -> None:
        future = self._done.pop(id)
        if error is None:
            future.set_result(result)
            return
        name, number, about, path = error
        if number is None:
            future.set_exception(_KNOWN.get(name, errors.InfraError)(about))
        elif number in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            future.set_exception(errors.InfraError(f"in the box: {about}; free space on its disk"))
        else:
            future.set_exception(OSError(number, about, path))

    def _end(self) -> None:
        with self._guard:
            self._over = True
        for stream in [*self._streams.values()]:
            self._close(stream)
        for command in self._commands.values():
            for file in command.files:
                os.close(file.fd)
        self._peer.close()
        os.close(self._wake)
        os.close(self._waker)
        self._select.close()
        for future in self._done.values():
            future.set_exception(errors.WorkspaceLostError(self.why()))


class _Stream:
    """A descriptor of a command; ``taking``: the host writes, the command reads."""

    def __init__(self, key: int, fd: int, command: _Command) -> None:
        self.key, self.fd, self.command = key, fd, command
        self.taking = self.watched = False
        self.window, self.content = WINDOW, b""


class _Command:
    """A command's streams, and what the box told of it that the host has not taken yet."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.streams: list[_Stream] = []
        self.files: list[_Stream] = []
        self.waiting: deque[tuple[_Stream | None, bytes]] = deque()
        self.ended = False


class _Clock:
    """Every so many seconds."""

    def __init__(self, period: float) -> None:
        self._period, self._next = period, time.monotonic() + period

    def left(self) -> float:
        return max(0.0, self._next - time.monotonic())

    def due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._period
        return True


def _whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
