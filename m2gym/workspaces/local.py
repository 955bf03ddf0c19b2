"""The local workspace: a bubblewrap sandbox on this machine.

Life of a box::

    start ──► (exec · shell · read · write …) ──► stop
      ▲            │ snapshot / fork: a frozen copy of what the box changed
      └─ restore ◄─┘ (processes end, files go back, the box starts again)

One packet socket leads to the supervisor, process 1 of the box. When the socket closes, because
the owner stopped the box or died, process 1 ends and the kernel ends every other process and
unmounts everything: mounts exist only in the box's own mount namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from m2gym.core.errors import InfraError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import User
from m2gym.workspaces import bubblewrap
from m2gym.workspaces.bubblewrap import FIRST_ID, HOMES
from m2gym.workspaces.channel import Channel
from m2gym.workspaces.files import Owner, Tree
from m2gym.workspaces.layers import Bases, Files, Stack
from m2gym.workspaces.limits import hierarchy, make_group, rlimits
from m2gym.workspaces.snapshot import Snapshot
from m2gym.workspaces.state import State, full_disk
from m2gym.workspaces.supervised import SupervisedWorkspace

START_SECONDS = 30.0
"""How long a box may take to come up on a crowded machine; the project's choice."""

_bases: dict[str, Bases] = {}
_bases_guard = threading.Lock()


def capabilities() -> frozenset[str]:
    """What a local box can do on this machine; `CapabilityError` where there can be none."""
    able = bubblewrap.require()
    found = {"sandbox", "listen", "network", "allowlist", "fork", "limits.disk"}
    if able.users:
        found.add("users")
    for controller, name in (("memory", "memory"), ("pids", "processes"), ("cpu", "cpu")):
        if controller in hierarchy().has:
            found.add(f"limits.{name}")
    return frozenset(found)


class LocalWorkspace(SupervisedWorkspace):
    """A bubblewrap sandbox on this machine: its own files, processes, users and no network."""

    kind = "local"

    def __init__(self, spec: WorkspaceSpec, *, snapshot: Snapshot | None = None) -> None:
        super().__init__(spec, capabilities(), snapshot=snapshot)
        self._able = bubblewrap.require()
        self._files: Files | None = None
        self._launched: bubblewrap.Launched | None = None
        self._pid = -1

    def owner(self, user: User | None) -> Owner:
        number = FIRST_ID + self.number(user)
        return (number, number) if self._able.users else None

    async def _start(self) -> None:
        if self._files is None:
            self._files = await self._make_files()
        self._bring_up(self._files)
        await self._hello()

    async def _make_files(self) -> Files:
        with full_disk("making a box's folder"):
            self.folder.mkdir(mode=0o711)
            self.folder.chmod(0o711)
        if self._snapshot is not None:
            stack = self._snapshot.content.copy()
            self._drop_snapshot()
        else:
            bases = _bases_of()
            layers = [bases.skeleton()]
            if self.spec.root is not None:
                layers.append(await asyncio.to_thread(bases.of, self.spec.root))
            stack = Stack(layers)
        if self._able.overlay:
            return Files(self.folder, stack, overlay=True, owners=self._able.owners)
        return await asyncio.to_thread(
            Files, self.folder, stack, overlay=False, owners=self._able.owners
        )

    def _bring_up(self, files: Files) -> None:
        limits = self.spec.limits
        if self._group is None:
            self._group = make_group(f"{self._state.owner}-{self.name}", limits)
        self._speak(Channel())
        bounds = rlimits(limits, grouped=self._group is not None, own_namespace=True)
        try:
            self._launched = bubblewrap.launch(
                self.spec,
                self._able,
                self.folder,
                files.options() if files.overlay else None,
                self._group.entries if self._group is not None else (),
                bounds,
                self.channel.peer.fileno(),
            )
        finally:
            self.channel.peer.close()

    async def _hello(self) -> None:
        timer = asyncio.get_running_loop().call_later(START_SECONDS, self.channel.close)
        try:
            root, self._pid = await self.channel.hello()
        finally:
            timer.cancel()
        areas = [*HOMES.values()] if self._able.users else [HOMES["agent"]]
        self.tree = Tree(root, self.spec.workdir, [*areas, "/tmp"])

    def _why(self) -> str:
        if not self._started and self._launched is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launched.process.wait(timeout=0.2)
            said = self._launched.complaint() or "bubblewrap said nothing"
            return f"the box could not be started: {said}"
        return self._out_of_memory() or "the box died: its supervisor ended"

    async def _thaw(self, snapshot: Snapshot) -> None:
        """The box starts again from the snapshot's files."""
        stack: Stack = snapshot.content.copy()
        self._end_processes()
        await asyncio.to_thread(self._wait_ended)
        await asyncio.to_thread(self._need_files().replace, stack)
        await self.ensure_started()

    async def _freeze(self, holders: int = 1) -> Snapshot:
        stack = await asyncio.to_thread(self._copied)
        return Snapshot(self.kind, stack, stack.release, holders)

    def _copied(self) -> Stack:
        root = Path(f"/proc/self/fd/{self.tree.root}")
        inside = {"work": self.spec.workdir, "home": HOMES["agent"], "tmp": "/tmp"}
        if self._able.users:
            inside |= {"grader": HOMES["grader"], "root": HOMES["root"]}
        seen = {name: root / path.lstrip("/") for name, path in inside.items()}
        return self._need_files().freeze(seen)

    def _need_files(self) -> Files:
        if self._files is None:
            raise WorkspaceLostError("the box has no files: it was stopped")
        return self._files

    def changed(self) -> Path:
        """The folder of the host that holds what the box wrote."""
        return self._need_files().changed()

    def host_pids(self) -> list[int]:
        """The host's ids of our own processes of a running box."""
        if self._launched is None:
            return []
        return [pid for pid in (self._launched.process.pid, self._pid) if pid > 0]

    def _wait_ended(self) -> None:
        launched, self._launched = self._launched, None
        pid, self._pid = self._pid, -1
        if launched is None:
            return
        process = launched.process
        try:
            process.wait(timeout=2.0 if pid > 0 else 0.5)
        except subprocess.TimeoutExpired:
            for victim in (pid, process.pid):
                if victim > 0:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                raise InfraError(f"process {process.pid} of a box cannot be killed") from None

    def _let_go(self) -> None:
        self._wait_ended()
        group, self._group = self._group, None
        if group is not None:
            group.remove()
        files, self._files = self._files, None
        if files is not None:
            files.remove()


def _bases_of() -> Bases:
    with _bases_guard:
        key = State.get().owner
        if key not in _bases:
            _bases.clear()
            _bases[key] = Bases(bubblewrap.require().owners)
        return _bases[key]
