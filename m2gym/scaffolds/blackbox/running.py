"""One run of a black-box agent: in the episode's box, against a gateway of its own.

The box has no network: it listens on its own loopback and hands the socket out, so whoever reaches
it is the episode's session. What the program says at its end is kept and not believed: its files
are graded, and the session's record says whether a model failed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from m2gym.core.errors import InfraError, InputError
from m2gym.core.protocols import Episode
from m2gym.core.workspace import Process, Workspace
from m2gym.gateway.exchange import Outcome
from m2gym.gateway.server import Gateway
from m2gym.models.session import RecordedSession
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Job, Launch
from m2gym.scaffolds.blackbox.install import INTERPRETER

KEPT = 32_000
"""Bytes kept of each end of what a program prints; the project's choice."""

GRACE = 20.0
"""Seconds a program may go on after its session has ended, then a signal comes; the project's
choice. `TERM_SECONDS` later its box's processes are killed."""

TERM_SECONDS = 5.0

START = f"""
if [ -d {INTERPRETER}/lib ]; then
  export LD_LIBRARY_PATH="${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}{INTERPRETER}/lib"
fi
exec "$@" </dev/null"""
"""An agent's Python may be a shared build, whose library is then looked for after the task's."""

UPSTREAM = frozenset({"rate_limit", "timeout", "network", "server", "auth", "refused", "broken"})
"""Causes of faults that are the model's or its provider's, never the agent's."""

MODEL = "m2gym-model"
"""What an agent is told when its model has no name of its own."""


async def run_agent(agent: BlackBox, episode: Episode) -> None:
    """Launch, wait, and see that it really ran.

    Raises:
        InputError: there is no session to answer it.
        InfraError: the model's provider failed it, or it ended without asking a model anything.
    """
    session = episode.session
    if session is None and agent.uses_model:
        raise InputError(f"agent {agent.name!r} calls a model: name one with --model (model=…)")
    box, heard = episode.workspace, _Heard()
    if not isinstance(session, RecordedSession | None):
        raise InputError("a black-box agent needs a RecordedSession, so that its calls are kept")
    gateway = Gateway(watch=heard.take)
    began = time.monotonic()
    try:
        url, key = "http://127.0.0.1", KEY
        if session is not None:
            url, key = await _open(gateway, box, session)
        job = await job_of(episode)
        launch = agent.launch(Endpoint(url, key, told_name(agent, episode)), job)
        run = await _program(box, launch, job.home, session)
    finally:
        await gateway.stop()
    _keep(agent, episode, launch, run, time.monotonic() - began, key)
    if session is not None:
        _believe(agent, session, heard, run)


KEY = "sk-m2gym"
"""A box's socket is one session's, whatever key comes: this is for programs that insist on one.

Without a sandbox the host's other users reach the port too, so there the key is a secret."""


async def _open(gateway: Gateway, box: Workspace, session: RecordedSession) -> tuple[str, str]:
    """The gateway's address for a program in the box, and its key."""
    if "sandbox" in box.capabilities:
        sock = await box.listen(0)
        port = sock.getsockname()[1]
        await gateway.serve_socket(sock, session)
        return f"http://127.0.0.1:{port}", KEY
    await gateway.start()
    access = gateway.add(session)
    return access.url, access.secret


def told_name(agent: BlackBox, episode: Episode) -> str:
    """The model's name as the agent is told it: ``a/b/NAME`` of a provider's; else `MODEL`."""
    named = agent.model_name or str(getattr(episode, "model", None) or "")
    if not agent.model_name and re.match(r"(scripted|replay)\b", named):
        return MODEL
    last = re.split(r"[/#]", named)[-1]
    return last if re.fullmatch(r"[\w.:@-]+", last) else MODEL


async def job_of(episode: Episode) -> Job:
    """The instruction, with where the files are and until when."""
    workdir = episode.prepared.workspace.workdir
    limit = episode.task.limits.seconds
    until = "" if limit is None else f" You have {limit:g} seconds."
    text = f"{episode.task.instruction.rstrip()}\n\nThe files are in {workdir}.{until}"
    home = await episode.workspace.exec(["sh", "-c", 'printf %s "$HOME"'])
    if not home.ok:
        raise InfraError(f"the box does not say where its home is: {home.output.strip()}")
    return Job(text, workdir, home.output)


@dataclass
class Run:
    """How a program ended: its exit code, and both ends of what it printed."""

    code: int
    stdout: str
    stderr: str
    killed: str = ""

    def tail(self, size: int = 1500) -> str:
        """The last of it, for messages."""
        return (self.stdout[-size:] + "\n" + self.stderr[-size:]).strip()


@dataclass
class _Heard:
    """What the gateway answered, in order."""

    last: Outcome | None = None
    calls: int = 0

    def take(self, outcome: Outcome) -> None:
        self.last, self.calls = outcome, self.calls + 1


@dataclass
class _Ends:
    """The beginning and the end of a stream."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    lost: int = 0

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            room = max(0, KEPT - len(self.head))
            self.head += chunk[:room]
            self.tail += chunk[room:]
            if len(self.tail) > KEPT:
                self.lost += len(self.tail) - KEPT
                del self.tail[: len(self.tail) - KEPT]

    @property
    def text(self) -> str:
        cut = f"\n[… {self.lost} bytes …]\n".encode() if self.lost else b""
        return bytes(self.head + cut + self.tail).decode("utf-8", "replace")


async def _program(
    box: Workspace, launch: Launch, home: str, session: RecordedSession | None
) -> Run:
    for path, text in launch.files.items():
        place = home + path[1:] if path.startswith("~/") else path
        await box.write(place, text.encode())
    command = ["/bin/sh", "-c", START, "agent", *launch.command]
    process = await box.spawn(command, env=launch.env)
    out, err = _Ends(), _Ends()
    reading = [
        asyncio.create_task(out.read(process.stdout())),
        asyncio.create_task(err.read(process.stderr())),
    ]
    try:
        await process.close_stdin()
        code, killed = await _ended(process, box, session)
        # what it left in the background may hold its output open
        await asyncio.wait(reading, timeout=1.0)
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    return Run(code, out.text, err.text, killed)


async def _ended(
    process: Process, box: Workspace, session: RecordedSession | None
) -> tuple[int, str]:
    """The exit code; a program that goes on after its session has ended is ended too."""
    waiting = asyncio.ensure_future(process.wait())
    over: float | None = None
    killed = ""
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=0.5)
            if session is None or session.ended is None or waiting.done():
                continue
            now = time.monotonic()
            over = over or now
            if now - over > GRACE + TERM_SECONDS:
                await box.kill()
                break
            if now - over > GRACE and not killed:
                killed = f"it went on {GRACE:g} s after its session had ended"
                await process.signal(signal.SIGTERM)
        return await waiting, killed
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


def _keep(
    agent: BlackBox, episode: Episode, launch: Launch, run: Run, seconds: float, key: str
) -> None:
    """Put the launch into the episode's steps."""
    note = getattr(episode, "note", None)
    if note is None:
        return
    said = run.stdout + (f"\n[stderr]\n{run.stderr}" if run.stderr.strip() else "")
    said = said.replace(key, "[key]")
    command = [part.replace(key, "[key]") for part in launch.command]
    info = {"exit_code": run.code, "version": agent.version, "dialect": agent.dialect}
    if run.killed:
        info["killed"] = run.killed
    action = {"name": "launch", "arguments": {"command": command}}
    note(action, said, info, seconds)


def _believe(agent: BlackBox, session: RecordedSession, heard: _Heard, run: Run) -> None:
    """Whether the agent had its say, whatever its exit code claims."""
    if session.stop is not None:
        return
    fault = session.faults[-1] if session.faults else None
    failed = heard.last is not None and heard.last.status >= 400
    if failed and fault is not None and fault.cause in UPSTREAM:
        raise InfraError(
            f"the model failed {agent.name} ({fault.cause}): {fault.message}; it gave up with "
            f"exit code {run.code}"
        )
    if agent.asks_model and not session.completions:
        asked = f"got no answer in {heard.calls} calls" if heard.calls else "asked no model"
        error = f": {heard.last.error}" if heard.last is not None and heard.last.error else ""
        raise InfraError(
            f"{agent.name} ended with exit code {run.code} and {asked}{error}; it said: "
            f"{run.tail() or 'nothing'}"
        )
