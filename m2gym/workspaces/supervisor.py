# ruff: noqa: PTH110, PTH115, PTH123, PTH208
"""The helper of a box in Python, for hosts without a C compiler: the twin of ``native/``.

It is run by itself (``python3 -I -S supervisor.py launch|serve|connect|enter …``) and knows only
the standard library. The same protocol, about twice as slow a command. ``enter`` is its own: it
goes into the box of another process from outside, for images that hold no Python.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import warnings  # noqa: F401 - os.execvpe wants it, in a box that holds no Python

EXEC, KILL, SIGNAL, KILLALL, LISTEN = 1, 2, 3, 4, 5
HELLO, EXITED, FAILED, GONE, SOCKET = 100, 101, 102, 103, 104
STAGE_FORK, STAGE_CWD, STAGE_USER, STAGE_EXEC = 1, 2, 3, 4
FIRST_EXTRA_FD, SLOTS, BUFFER = 197, 4096, 1 << 18
REQUEST, REPLY, SHARED = struct.Struct("=IIiiII"), struct.Struct("=IIii"), struct.Struct("=ii")
NEWNS, NEWUSER, BIND_REC, PRIVATE_REC, SAFE = 0x20000, 0x10000000, 0x5000, 0x44000, 0x6
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
NAMESPACES = ("user", "ipc", "uts", "net", "pid", "cgroup", "mnt")

libc = ctypes.CDLL(None, use_errno=True)


def die(what: str, number: int = 0) -> None:
    sys.exit(f"supervisor: {what}: {os.strerror(number or ctypes.get_errno())}")


def write_file(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        die(path, error.errno or 0)


def unshare(flags: int, what: str) -> None:
    if libc.unshare(flags) < 0:
        die(what)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if libc.mount(texts[0], texts[1], texts[2], flags, texts[3]) < 0:
        die(f"{kind or source or target}")


def map_range(base: str) -> None:
    reader, writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(writer)
        if os.read(reader, 1):
            for name in ("uid_map", "gid_map"):
                write_file(f"/proc/{parent}/{name}", f"0 {base} 65536")
            os._exit(0)
        os._exit(1)
    unshare(NEWUSER, "a new user namespace")
    os.write(writer, b"x")
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("supervisor: the map of user ids was refused")
    os.close(reader)
    os.close(writer)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def launch(arguments: list[str]) -> None:
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word == "--cgroup":
            write_file(next(words), "0")
        elif word == "--self":
            uid, gid = os.getuid(), os.getgid()
            unshare(NEWUSER | NEWNS, "a new user namespace")
            write_file("/proc/self/setgroups", "deny")
            write_file("/proc/self/uid_map", f"{uid} {uid} 1")
            write_file("/proc/self/gid_map", f"{gid} {gid} 1")
        elif word == "--private":
            unshare(NEWNS, "a new mount namespace")
            mount(None, "/", None, PRIVATE_REC, None)
        elif word == "--overlay":
            options = next(words)
            mount("overlay", next(words), "overlay", SAFE, options)
        elif word == "--rbind":
            source = next(words)
            mount(source, next(words), None, BIND_REC, None)
        elif word == "--map":
            map_range(next(words))
        else:
            die(word, errno.EINVAL)
    program = list(words)
    try:
        os.execv(program[0], program)
    except OSError as error:
        die(program[0], error.errno or 0)


def enter(pid: str, may: int, filter_fd: int, channel: int) -> None:
    """Become the supervisor of the box whose process ``pid`` (of this machine) keeps: its control
    groups, namespaces and root, the capabilities ``may`` (a mask) and a filter of system calls."""
    with open(f"/proc/{pid}/cgroup") as file:
        groups = [line.rstrip("\n").split(":", 2) for line in file]
    for _, names, path in groups:
        place = f"/sys/fs/cgroup/{names.removeprefix('name=')}{path}/cgroup.procs"
        if os.path.exists(place):
            write_file(place, "0")
    with os.fdopen(filter_fd, "rb") as file_of_filter:
        code = file_of_filter.read()
    doors = []
    for name in NAMESPACES:
        theirs = f"/proc/{pid}/ns/{name}"
        if os.path.exists(theirs) and os.readlink(theirs) != os.readlink(f"/proc/self/ns/{name}"):
            doors.append(os.open(theirs, os.O_RDONLY | os.O_CLOEXEC))
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for door in doors:
        if libc.setns(door, 0) < 0:
            die("a namespace of the box")
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    child = os.fork()
    if child:
        os.close(channel)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    for number in range(64):
        if not may >> number & 1:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    low = struct.pack("=III", may, may, 0) + bytes(12)
    if libc.capset(struct.pack("=Ii", 0x20080522, 0), low) < 0:
        die("capset")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if code:
        steps = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(steps))
        if libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0) < 0:
            die("the filter of system calls")


class Slot:
    """A command that runs: its id, its minder, whether it is being killed, and the signals that
    were asked for before it ran."""

    def __init__(self, number: int, index: int, minder: int) -> None:
        self.number, self.index, self.minder, self.killing = number, index, minder, False
        self.signals: list[int] = []


class Server:
    """Process 1 of the box."""

    def __init__(self, fd: int, limits: list[int]) -> None:
        self.channel = socket.socket(fileno=fd)
        self.channel.set_inheritable(False)
        names = (
            resource.RLIMIT_NPROC,
            resource.RLIMIT_DATA,
            resource.RLIMIT_FSIZE,
            resource.RLIMIT_CPU,
        )
        self.limits = [(n, v) for n, v in zip(names, limits, strict=True) if v >= 0]
        self.limits.append((resource.RLIMIT_CORE, 0))
        self.slots: dict[int, Slot] = {}
        self.free = list(range(SLOTS))
        self.shared = mmap.mmap(-1, SHARED.size * SLOTS)

    def send(self, operation: int, number: int, a: int = 0, b: int = 0, fd: int = -1) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        with contextlib.suppress(OSError):
            self.channel.sendmsg([REPLY.pack(operation, number, a, b)], rights)

    def serve(self) -> None:
        libc.prctl(PR_SET_DUMPABLE, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        self.send(HELLO, 0, fd=root)
        os.close(root)
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            busy = any(s.killing or s.signals for s in self.slots.values())
            ready = {fd for fd, _ in poll.poll(1 if busy else None)}
            if wake in ready:
                os.read(wake, 4096)
            self.reap()
            if self.channel.fileno() in ready and not self.receive():
                break
            for slot in list(self.slots.values()):
                self.pass_on(slot)
                if slot.killing:
                    kill_below(slot.minder)
        end = time.monotonic() + 2
        while os.getpid() != 1 and time.monotonic() < end:
            kill_below(os.getpid())
            self.reap()
            if not has_children():
                break
            time.sleep(0.001)

    def receive(self) -> bool:
        fds = array.array("i")
        try:
            size = socket.CMSG_SPACE(16 * fds.itemsize)
            data, control, _, _ = self.channel.recvmsg(BUFFER, size)
        except InterruptedError:
            return True
        except OSError:
            return False
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
        if not data:
            return False
        operation, number, a, b, argc, envc = REQUEST.unpack_from(data)
        if operation == EXEC:
            words = data[REQUEST.size :].split(b"\0")[:-1]
            self.start(number, a, b, words[0], words[1 : argc + 1], words[argc + 1 :][:envc], fds)
        elif operation == KILL:
            if a in self.slots:
                self.slots[a].killing = True
            else:
                self.send(GONE, a)
        elif operation == SIGNAL:
            if a in self.slots and 0 < b <= 64:
                self.slots[a].signals.append(b)
        elif operation == KILLALL:
            self.kill_all(number)
        elif operation == LISTEN:
            self.listen(number, a)
        for fd in fds:
            os.close(fd)
        return True

    def pass_on(self, slot: Slot) -> None:
        """Send its signals, once the minder has said who the command is."""
        main, reported = SHARED.unpack_from(self.shared, slot.index * SHARED.size)
        if main <= 0 and not reported:
            return
        for signal_number in slot.signals if main > 0 else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(main, signal_number)
        slot.signals.clear()

    def listen(self, number: int, port: int) -> None:
        with socket.socket() as listener:
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen(128)
            except OSError as error:
                self.send(FAILED, number, error.errno or 0)
            else:
                self.send(SOCKET, number, fd=listener.fileno())

    def start(
        self,
        number: int,
        uid: int,
        gid: int,
        cwd: bytes,
        argv: list[bytes],
        env: list[bytes],
        fds: array.array[int],
    ) -> None:
        if not self.free:
            self.send(FAILED, number, errno.EAGAIN, STAGE_FORK)
            return
        index = self.free.pop()
        SHARED.pack_into(self.shared, index * SHARED.size, 0, 0)
        try:
            minder = os.fork()
        except OSError as error:
            self.free.append(index)
            self.send(FAILED, number, error.errno or 0, STAGE_FORK)
            return
        if minder == 0:
            try:
                self.mind(number, index, uid, gid, cwd, argv, env, list(fds))
            finally:
                os._exit(1)
        self.slots[number] = Slot(number, index, minder)

    def mind(
        self,
        number: int,
        index: int,
        uid: int,
        gid: int,
        cwd: bytes,
        argv: list[bytes],
        env: list[bytes],
        fds: list[int],
    ) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        reader, writer = os.pipe()
        child, trouble = -1, b""
        try:
            child = os.fork()
        except OSError as error:
            trouble = struct.pack("=ii", error.errno or 0, STAGE_FORK)
        if child == 0:
            os.close(reader)
            self.become(uid, gid, cwd, argv, env, fds, writer)
        os.close(writer)
        for fd in fds:
            os.close(fd)
        reported = False
        trouble = trouble or os.read(reader, 8)
        os.close(reader)
        at = index * SHARED.size
        if trouble:
            reported = True
            SHARED.pack_into(self.shared, at, 0, 1)
            self.send(FAILED, number, *struct.unpack("=ii", trouble))
        else:
            SHARED.pack_into(self.shared, at, child, 0)
        while True:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                os._exit(0)
            if pid == child and not reported:
                reported = True
                SHARED.pack_into(self.shared, at, 0, 1)
                self.send(EXITED, number, status)

    def become(
        self,
        uid: int,
        gid: int,
        cwd: bytes,
        argv: list[bytes],
        env: list[bytes],
        fds: list[int],
        writer: int,
    ) -> None:
        stage = STAGE_FORK
        try:
            os.setsid()
            for n, fd in enumerate(fds):
                os.dup2(fd, n if n < 3 else FIRST_EXTRA_FD + n - 3)
            for name, value in self.limits:
                resource.setrlimit(name, (value, value))
            stage = STAGE_USER
            if gid >= 0:
                os.setgroups([gid])
                os.setresgid(gid, gid, gid)
            if uid >= 0:
                os.setresuid(uid, uid, uid)
            if uid > 0 and libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) < 0:
                raise OSError(ctypes.get_errno(), "capset")
            stage = STAGE_CWD
            os.chdir(cwd)
            stage = STAGE_EXEC
            os.umask(0o022)
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(ignored, signal.SIG_DFL)
            os.execvpe(argv[0], argv, dict(pair.split(b"=", 1) for pair in env))
        except OSError as error:
            os.write(writer, struct.pack("=ii", error.errno or 0, stage))
        os._exit(127)

    def kill_all(self, number: int) -> None:
        """At once, before the next request: a command that follows must not be caught by it."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            self.kill_everything()
            self.reap()
            if not has_children():
                break
            time.sleep(0.0005)
        self.send(GONE, number)

    def kill_everything(self) -> None:
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            kill_below(os.getpid())

    def kill_strays(self) -> None:
        """Children that are no minders: a command killed its minder to be lost sight of."""
        for _ in range(200):
            minders = {slot.minder for slot in self.slots.values()}
            strays = [p for p in family().get(os.getpid(), ()) if p not in minders]
            if not strays:
                return
            for pid in strays:
                kill_below(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.0005)

    def reap(self) -> None:
        strays = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                break
            for slot in list(self.slots.values()):
                if slot.minder == pid:
                    if not SHARED.unpack_from(self.shared, slot.index * SHARED.size)[1]:
                        self.send(EXITED, slot.number, int(signal.SIGKILL))
                    if slot.killing:
                        self.send(GONE, slot.number)
                    self.free.append(slot.index)
                    del self.slots[slot.number]
                    strays |= os.WIFSIGNALED(status)
        if strays:
            self.kill_strays()


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def family() -> dict[int, list[int]]:
    """The living children of every process."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except (OSError, IndexError, ValueError):
                continue
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(name))
    return children


def kill_below(root: int) -> None:
    """Kill everything below a process, not itself."""
    children, stack = family(), [root]
    while stack:
        for pid in children.get(stack.pop(), ()):
            stack.append(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def dial(path: str) -> int:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.connect(path)
    except OSError as error:
        die(path, error.errno or 0)
    return channel.detach()


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        launch(sys.argv[2:])
    elif sys.argv[1] == "enter":
        enter(sys.argv[7], int(sys.argv[8]), int(sys.argv[9]), int(sys.argv[2]))
        Server(int(sys.argv[2]), [int(value) for value in sys.argv[3:7]]).serve()
    else:
        own = dial(sys.argv[2]) if sys.argv[1] == "connect" else int(sys.argv[2])
        Server(own, [int(value) for value in sys.argv[3:7]]).serve()
