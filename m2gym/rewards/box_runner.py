# ruff: noqa: PTH103, PTH109, PTH116, PTH118, PTH123, PTH208
"""Runs pytest in the grading box; sent there as text, standard library only.

Started as the box's root (where the box has users), it drops pytest to the uid that owns the work
folder, reads report frames from a pipe, waits, kills what that uid has left running, and prints
one JSON object on its own standard output, which the graded uid never holds. A test that hangs
past its time-out, or takes the process down, is marked, and the rest runs in a new process.

Started in the work folder. Job (JSON on standard input): plugin, args, files, ids, workdir (what
the task calls the folder), env, timeout, budget.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import Any

TAIL = 8_000
MAX_FRAMES = 64 * 2**20
MAX_RESTARTS = 20
GRACE = 5.0
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


def main() -> None:
    """Read the job, run the tests, print the result."""
    keep_apart()
    job = json.load(sys.stdin)
    uid = os.stat(".").st_uid if os.geteuid() == 0 else os.geteuid()
    end = time.monotonic() + job["budget"]
    ids = list(job["ids"])
    attempts: list[dict[str, Any]] = []
    outcomes: dict[str, str] = {}
    messages: dict[str, str] = {}
    collect: dict[str, str] = {}
    started = time.monotonic()
    while True:
        attempt = run(job, ids, uid, end)
        outcomes.update(attempt.pop("outcomes"))
        messages.update(attempt.pop("messages"))
        collect.update(attempt.pop("collect"))
        attempts.append(attempt)
        current = attempt["current"]
        if attempt["ended"] or current is None or len(attempts) > MAX_RESTARTS:
            break
        outcomes[current] = "timeout" if attempt["stalled"] else "crashed"
        done = set(outcomes)
        ids = [i for i in ids if i not in done and not any(d.startswith(i + "[") for d in done)]
        if not ids or time.monotonic() >= end:
            break
    json.dump(
        {
            "attempts": attempts,
            "outcomes": outcomes,
            "messages": messages,
            "collect": collect,
            "seconds": time.monotonic() - started,
        },
        sys.stdout,
    )


def keep_apart() -> None:
    """Close this process's descriptors and memory to others of its uid (which the graded code is
    where the box has one user), and become the parent of whatever the tests leave behind."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(job: dict[str, Any], ids: list[str], uid: int, end: float) -> dict[str, Any]:
    """One pytest process: what it reported, and how it ended."""
    read, write = os.pipe()
    env = dict(os.environ, **job["env"])
    env.pop("PYTHONOPTIMIZE", None)
    trusted, graded = split_path(env.get("PYTHONPATH", ""), job["workdir"], os.getcwd())
    env["PYTHONPATH"] = os.pathsep.join(trusted)
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0 and uid != 0:
        as_user = {"user": uid, "group": uid, "extra_groups": []}
        env.update(HOME=home(uid), USER="agent", LOGNAME="agent")
    files = [f for f in job["files"] if any(i.split("::")[0] == f for i in ids)] or job["files"]
    child = subprocess.Popen(
        [sys.executable, "-s", "-c", job["plugin"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(write,),
        env=env,
        start_new_session=True,
        **as_user,
    )
    os.close(write)
    order = {
        "fd": write,
        "graded": graded,
        "ids": ids,
        "args": job["args"] + files,
        "timeout": job["timeout"],
    }
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(order).encode())
        child.stdin.close()
    state = Frames()
    output = watch(child, read, state, job["timeout"], end)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    kill_all(uid)
    state.feed_rest(read)
    os.close(read)
    child.stdout.close()
    return {
        "exit": None if state.stalled or state.late else child.returncode,
        "ready": state.ready,
        "ended": state.ended,
        "stalled": state.stalled,
        "late": state.late,
        "current": state.current,
        "failures": state.failures,
        "outcomes": state.outcomes,
        "messages": state.messages,
        "collect": state.collect,
        "output": output.decode("utf-8", "replace"),
    }


class Frames:
    """What the plugin has reported so far."""

    def __init__(self) -> None:
        self.buffer, self.total, self.failures = b"", 0, 0
        self.ready = self.ended = self.stalled = self.late = False
        self.current: str | None = None
        self.outcomes: dict[str, str] = {}
        self.messages: dict[str, str] = {}
        self.collect: dict[str, str] = {}

    def feed(self, data: bytes) -> None:
        """Take whole lines; one that is no frame counts as a failure."""
        self.total += len(data)
        if self.total > MAX_FRAMES:
            return
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            try:
                self.take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.failures += 1

    def take(self, frame: dict[str, Any]) -> None:
        """Note one frame."""
        kind = frame["kind"]
        if kind == "ready":
            self.ready = True
        elif kind == "start":
            self.current = str(frame["id"])
        elif kind == "test":
            name, outcome = str(frame["id"]), str(frame["outcome"])
            if outcome in ("failed", "error", "timeout"):
                self.failures += 1
            if self.outcomes.get(name, outcome) == outcome or outcome != "passed":
                self.outcomes[name] = outcome
            if frame.get("message"):
                self.messages[name] = str(frame["message"])[-600:]
            self.current = None
        elif kind == "collect":
            self.failures += 1
            self.collect[str(frame["id"])] = str(frame["message"])[-600:]
        elif kind == "end":
            self.ended = True

    def feed_rest(self, fd: int) -> None:
        """Take what the pipe still holds."""
        os.set_blocking(fd, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(fd, 1 << 16):
                self.feed(data)


def watch(
    child: subprocess.Popen[bytes], read: int, state: Frames, timeout: float, end: float
) -> bytes:
    """Read both pipes until the process has ended, stalls or is out of time; its last output."""
    assert child.stdout is not None
    tail, beat = b"", time.monotonic()
    patience = timeout + GRACE
    exited = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
    with selectors.DefaultSelector() as selector:
        selector.register(read, selectors.EVENT_READ)
        selector.register(child.stdout, selectors.EVENT_READ)
        if exited is not None:
            selector.register(exited, selectors.EVENT_READ)
        while child.poll() is None:
            now = time.monotonic()
            state.late, state.stalled = now >= end, now >= beat + patience
            if state.late or state.stalled:
                break
            wait = min(end, beat + patience) - now
            for key, _ in selector.select(wait if exited is not None else min(wait, 0.02)):
                if key.fd == exited:
                    continue
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fd == read:
                    state.feed(data)
                    beat = time.monotonic()
                else:
                    tail = (tail + data)[-TAIL:]
    os.set_blocking(child.stdout.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while data := os.read(child.stdout.fileno(), 1 << 16):
            tail = (tail + data)[-TAIL:]
    if exited is not None:
        os.close(exited)
    return tail


def split_path(path: str, workdir: str, here: str) -> tuple[list[str], list[str]]:
    """Entries of PYTHONPATH outside and inside the work folder, which is really ``here``."""
    trusted: list[str] = []
    graded: list[str] = []
    for entry in filter(None, path.split(os.pathsep)):
        full = os.path.normpath(os.path.join(workdir, entry))
        inside = full == workdir or full.startswith(workdir.rstrip("/") + "/")
        if inside:
            graded.append(here + full[len(workdir) :])
        else:
            trusted.append(full)
    return trusted, graded


def home(uid: int) -> str:
    """A home that the graded uid may write: its own where the box has one, else a new one."""
    for path in (os.environ.get("HOME", ""), "/home/agent"):
        with contextlib.suppress(OSError):
            if os.stat(path).st_uid == uid:
                return path
    path = f"/tmp/home-{uid}"
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chown(path, uid, uid)
    return path


def kill_all(uid: int) -> None:
    """Kill every process of the graded uid, however it was detached; with one user in the box,
    everything that was left to this process."""
    apart = os.geteuid() == 0 and uid != 0
    for _ in range(200):
        found = False
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):
                parent = parent_of(name)
                theirs = os.stat("/proc/" + name).st_uid == uid if apart else parent == os.getpid()
                if theirs and parent is not None:
                    os.kill(int(name), signal.SIGKILL)
                    found = True
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not found:
            return
        time.sleep(0.002)


def parent_of(pid: str) -> int | None:
    """The parent of a living process, ``None`` for one that has ended."""
    with open(f"/proc/{pid}/stat", "rb") as handle:
        state, parent = handle.read().rpartition(b")")[2].split()[:2]
    return None if state in (b"Z", b"X") else int(parent)


if __name__ == "__main__":
    main()
