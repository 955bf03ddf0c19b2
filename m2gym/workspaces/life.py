"""The life of a box on this machine's side: it comes up once, whoever asks for it, and ends once.

A box holds a slot, a folder, a place in the list of live boxes, a channel to its supervisor and an
open way to its files; whatever ends it gives all of them back. What a kind has beside them it
brings up in `Life._start` and lets go of in `Life._let_go`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from m2gym.core.errors import InfraError, InputError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces import slots
from m2gym.workspaces.allowlist import Gate
from m2gym.workspaces.channel import Channel
from m2gym.workspaces.files import Tree
from m2gym.workspaces.limits import Group
from m2gym.workspaces.quota import watch
from m2gym.workspaces.snapshot import Snapshot
from m2gym.workspaces.state import State, remove_tree


class Life:
    """Start and stop of a box with our supervisor in it."""

    kind = "supervised"
    counted = False
    """Whether `slots` bounds how many boxes of this kind there are."""

    def __init__(
        self, spec: WorkspaceSpec, capabilities: frozenset[str], snapshot: Snapshot | None = None
    ) -> None:
        """``snapshot`` holds the files to begin with; the box lets go of it at its end."""
        self.spec, self.capabilities = spec, capabilities
        self._snapshot = snapshot
        self.channel: Channel
        self.tree: Tree
        self.gate: Gate | None = None
        """The way to the allowed hosts, where the network is an allowlist."""
        self._state = State.get()
        self.name = self._state.name(self.kind[0])
        self.folder = self._state.path / "boxes" / self.name
        self._slot: slots.Slot | None = None
        self._group: Group | None = None
        self._oom = 0
        self._null = -1
        self._note = b""
        self._starting: asyncio.Task[None] | None = None
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
            if self.counted and self._slot is None:
                self._slot = await slots.acquire()
            self._state.live[self.name] = self
            await self._start()
            if self.spec.network == "allowlist":
                gate = self.gate or Gate(self.spec.allowed_hosts)
                await gate.open(await self.channel.listen(0))
                self.gate = gate
        except BaseException:
            await asyncio.to_thread(self.stop_now)
            raise
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._oom = self._oom_kills()
        self._started = True
        if self.watched():
            watch(self)

    async def _start(self) -> None:
        """Bring the box up; whatever it raises, the box is then stopped."""
        raise WorkspaceLostError(f"the {self.kind} workspace cannot be started")

    def _speak(self, channel: Channel) -> None:
        """Take the channel to the box's supervisor."""
        self.channel = channel
        channel.lost = self._lost

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
        if self.gate is not None:
            self.gate.close()
        if self._null >= 0:
            os.close(self._null)
            self._null = -1
        if hasattr(self, "tree"):
            self.tree.close()
            del self.tree

    def _remove(self) -> None:
        """Give back what a box whose processes were ended held, whatever fails of it."""
        try:
            self._let_go()
            self._drop_snapshot()
        finally:
            if self._slot is not None:
                self._slot.release()
                self._slot = None
            remove_tree(self.folder)
            self._state.live.pop(self.name, None)

    def _let_go(self) -> None:
        """End and remove what only this kind of box has."""

    def _drop_snapshot(self) -> None:
        """Let go of the files that the box began with."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            with contextlib.suppress(InfraError):
                snapshot.release()

    @property
    def running(self) -> bool:
        """Whether the box is up."""
        return self._started and not self._stopped

    def _lost(self) -> WorkspaceLostError:
        if self._stopped:
            return WorkspaceLostError("this workspace was stopped")
        return WorkspaceLostError(self._why())

    def _why(self) -> str:
        """Why a box that was not stopped is lost."""
        return "the box died"

    def _out_of_memory(self) -> str:
        """That the box died for want of memory, if it did."""
        limit = self.spec.limits.memory_mb
        return f"the box died: out of memory (limit {limit} MiB)" if self.oom_since() else ""

    def kill_for(self, reason: str) -> None:
        """Kill every process from any thread, and say why in the next result."""
        self._note = f"m2gym: {reason}\n".encode()
        with contextlib.suppress(InfraError, OSError):
            self.channel.kill_everything_later()

    def take_note(self) -> bytes:
        """A message of ours for the next result (why the box was killed), once."""
        note, self._note = self._note, b""
        return note

    def watched(self) -> bool:
        """Whether the host sees what the box wrote and used, and can hold it to its limits."""
        return True

    def changed(self) -> Path:
        """The folder of the host that holds what the box wrote."""
        return self.folder

    def cpu_seconds(self) -> float:
        """Processor time of the whole box, seconds; 0 where no control group counts it."""
        group = self._group
        return 0.0 if group is None else group.cpu_seconds()

    def _oom_kills(self) -> int:
        with contextlib.suppress(OSError):
            return self._group.oom_kills() if self._group is not None else 0
        return self._oom

    def oom_since(self) -> bool:
        """Whether the kernel killed a process of the box for memory since the last call."""
        before, self._oom = self._oom, self._oom_kills()
        return self._oom > before

    def scratch(self) -> Path:
        """A folder of the host for short-lived files."""
        return self.folder
