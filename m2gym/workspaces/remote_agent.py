# ruff: noqa: PTH108
"""The end of a remote box's channel that runs in the box: the twin of ``remote.py``.

It is sent there in a zip with the supervisor and `m2gym.workspaces.files`, is run as root by the
box's own ``python3``, and knows only the standard library beside them. A line is a JSON object with
``op``; bytes are base64. From the host: ``ask`` (a packet of ``channel.py`` and, for a command,
its streams), ``data``, ``end``, ``file``, ``taken``, ``shut`` of a stream, ``do`` (an act on
files). To the host: ``hello``, ``reply`` (a packet), ``data``, ``end``, ``taken``, ``shut``,
``done``. A stream's sender has `WINDOW` bytes out at most until they are ``taken``.
"""

from __future__ import annotations

import array
import base64
import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import socket
import struct
import sys
import tempfile
import termios
from collections.abc import Iterable
from typing import Any

from m2gym.workspaces import remote_files, supervisor

CHUNK, WINDOW = 1 << 15, 1 << 18
PR_SET_NO_NEW_PRIVS = 38
Message = dict[str, Any]


class Out:
    """A pipe that a command writes to."""

    def __init__(self, key: int, fd: int) -> None:
        self.key, self.fd, self.window = key, fd, WINDOW


class In:
    """A pipe that a command reads from."""

    def __init__(self, key: int, fd: int) -> None:
        self.key, self.fd = key, fd
        self.waiting, self.ending = bytearray(), False


class Agent:
    """Passes packets to a supervisor beside it and the bytes of its commands to the host."""

    def __init__(self, limits: list[int]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1):
                os.dup2(null, fd)
            supervisor.Server(theirs.detach(), limits).serve()
            os._exit(0)
        theirs.close()
        self.supervisor = ours
        self.select = selectors.DefaultSelector()
        self.select.register(0, selectors.EVENT_READ)
        self.select.register(ours, selectors.EVENT_READ)
        os.set_blocking(0, False)
        self.text = b""
        self.outs: dict[int, list[Out]] = {}
        self.of: dict[int, Out | In | int] = {}

    def serve(self) -> None:
        """Until the host closes our input or the supervisor ends."""
        while True:
            ready = {key.fd for key, _ in self.select.select()}
            for number in list(self.outs):
                self.forward(number, ready)
            if self.supervisor.fileno() in ready and not self.replies():
                return
            for stream in [s for s in self.of.values() if isinstance(s, In) and s.fd in ready]:
                self.feed(stream)
            if 0 in ready and not self.requests():
                return

    def say(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def forward(self, number: int, ready: Iterable[int]) -> None:
        """Pass on what a command wrote. What a later stream says is said after all that lay in
        the earlier ones, so that a shell's answer follows its output."""
        told = [n for n, out in enumerate(self.outs[number]) if out.fd in ready]
        if told:
            last = told[-1]
            for out in self.outs[number][:last]:
                self.drain(out)
            self.read(self.outs[number][last], CHUNK)
        self.outs[number] = [out for out in self.outs[number] if out.fd >= 0]
        if not self.outs[number]:
            del self.outs[number]

    def drain(self, out: Out) -> None:
        """Pass on what lies in a pipe now."""
        size = array.array("i", [0])
        if out.fd >= 0:
            fcntl.ioctl(out.fd, termios.FIONREAD, size)
        left = size[0]
        while left > 0 and (got := self.read(out, min(left, CHUNK))):
            left -= got

    def read(self, out: Out, size: int) -> int:
        try:
            data = os.read(out.fd, size)
        except BlockingIOError:
            return 0
        if not data:
            self.end(out)
            self.say(op="end", key=out.key)
            return 0
        before, out.window = out.window, out.window - len(data)
        if before > 0 >= out.window:
            self.select.unregister(out.fd)
        self.say(op="data", key=out.key, data=base64.b64encode(data).decode())
        return len(data)

    def end(self, stream: Out | In) -> None:
        if stream.fd >= 0:
            with contextlib.suppress(KeyError):
                self.select.unregister(stream.fd)
            os.close(stream.fd)
            stream.fd = -1
        self.of.pop(stream.key, None)

    def replies(self) -> bool:
        """Pass on the supervisor's packets; whether it still runs."""
        data, control, _, _ = self.supervisor.recvmsg(64, 1024, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        operation, number, _, _ = supervisor.REPLY.unpack(data)
        if operation in (supervisor.EXITED, supervisor.FAILED):
            for out in self.outs.get(number, []):
                self.drain(out)
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                os.close(struct.unpack("i", value[:4])[0])
        if operation == supervisor.HELLO:
            self.say(op="hello", env=dict(os.environ))
        else:
            self.say(op="reply", packet=base64.b64encode(data).decode())
        return True

    def requests(self) -> bool:
        """Do what the host asks for; whether it is still there."""
        data = os.read(0, 1 << 20)
        self.text += data
        *lines, self.text = self.text.split(b"\n")
        for line in lines:
            message = json.loads(line)
            getattr(self, "do_" + message.pop("op"))(**message)
        return bool(data)

    def do_ask(self, packet: str, streams: list[list[Any]]) -> None:
        data = base64.b64decode(packet)
        _, number, uid, gid, _, _ = supervisor.REQUEST.unpack_from(data)
        theirs: dict[int, int] = {}
        passed = []
        for kind, key, *text in streams:
            if key not in theirs:
                theirs[key] = self.stream(number, kind, key, *text)
                if uid >= 0 and kind in ("in", "out"):
                    os.fchown(theirs[key], uid, gid)
            passed.append(theirs[key])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))]
        self.supervisor.sendmsg([data], rights if passed else [])
        for fd in theirs.values():
            os.close(fd)

    def stream(self, number: int, kind: str, key: int, text: str = "") -> int:
        """Make a command's stream; its end there."""
        if kind == "null":
            return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if kind == "file":
            ours, name = tempfile.mkstemp(dir=remote_files.STORE)
            theirs = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            os.unlink(name)
            os.fchmod(ours, 0o444)
            self.of[key] = ours
            self.do_file(key, text)
            return theirs
        reader, writer = os.pipe()
        if kind == "in":
            os.set_blocking(writer, False)
            self.of[key] = In(key, writer)
            return reader
        os.set_blocking(reader, False)
        out = self.of[key] = Out(key, reader)
        self.outs.setdefault(number, []).append(out)
        self.select.register(reader, selectors.EVENT_READ)
        return writer

    def do_file(self, key: int, data: str) -> None:
        fd, content = self.of.get(key), base64.b64decode(data)
        if isinstance(fd, int):
            at = 0
            while at < len(content):
                at += os.pwrite(fd, content[at:], at)
            os.ftruncate(fd, len(content))

    def do_data(self, key: int, data: str) -> None:
        stream = self.of.get(key)
        if isinstance(stream, In):
            stream.waiting += base64.b64decode(data)
            self.feed(stream)

    def do_end(self, key: int) -> None:
        stream = self.of.get(key)
        if isinstance(stream, In):
            stream.ending = True
            self.feed(stream)
        elif isinstance(stream, int):
            os.close(stream)
            del self.of[key]

    def do_taken(self, key: int, n: int) -> None:
        out = self.of.get(key)
        if isinstance(out, Out):
            before, out.window = out.window, out.window + n
            if before <= 0 < out.window:
                self.select.register(out.fd, selectors.EVENT_READ)

    def do_shut(self, key: int) -> None:
        stream = self.of.get(key)
        if isinstance(stream, Out):
            self.end(stream)

    def feed(self, stream: In) -> None:
        """Write what waits for a command."""
        try:
            while stream.waiting:
                done = os.write(stream.fd, stream.waiting[:CHUNK])
                del stream.waiting[:done]
                self.say(op="taken", key=stream.key, n=done)
        except BlockingIOError:
            if stream.fd not in self.select.get_map():
                self.select.register(stream.fd, selectors.EVENT_WRITE)
            return
        except BrokenPipeError:
            self.end(stream)
            self.say(op="shut", key=stream.key)
            return
        if stream.fd in self.select.get_map():
            self.select.unregister(stream.fd)
        if stream.ending:
            self.end(stream)

    def do_do(self, id: int, what: str, **named: Any) -> None:
        try:
            result = remote_files.ACTS[what](**named)
            self.say(op="done", id=id, result=result)
        except remote_files.ERRORS as error:
            number = getattr(error, "errno", None)
            about = str(getattr(error, "strerror", None) or error)
            name = getattr(error, "filename", None)
            self.say(op="done", id=id, error=[type(error).__name__, number, about, name])


def main() -> None:
    """``PROGRAM NPROC DATA FSIZE CPU``, as root."""
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.umask(0o022)
    Agent([int(value) for value in sys.argv[1:5]]).serve()
