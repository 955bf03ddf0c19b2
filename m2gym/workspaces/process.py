"""A workspace without a sandbox: commands run as the caller, on the host itself.

For machines where no box can be made and for trusted code only; it must be asked for by name. The
work folder is a temporary folder, not ``spec.workdir``; paths below ``spec.workdir`` are led there
for files and working folders, but a command sees the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import signal
import subprocess
from pathlib import Path

from m2gym.core.errors import CapabilityError, InputError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import User, Workspace
from m2gym.workspaces.bubblewrap import elsewhere
from m2gym.workspaces.channel import Channel
from m2gym.workspaces.files import Tree
from m2gym.workspaces.helper import helper
from m2gym.workspaces.layers import copy_tree
from m2gym.workspaces.limits import rlimits
from m2gym.workspaces.quota import watch
from m2gym.workspaces.state import State, full_disk, remove_tree
from m2gym.workspaces.supervised import SupervisedWorkspace

CAPABILITIES = frozenset({"fork", "listen", "network", "limits.disk"})


class ProcessSnapshot:
    """A copy of a process workspace's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def discard(self) -> None:
        await asyncio.to_thread(remove_tree, self.path)


class ProcessWorkspace(SupervisedWorkspace):
    """No sandbox: commands run on the host itself, in a temporary folder; only when asked for."""

    kind = "process"

    def __init__(self, spec: WorkspaceSpec, *, files: Path | None = None) -> None:
        super().__init__(spec, CAPABILITIES)
        if os.uname().sysname != "Linux":
            raise CapabilityError(f"the process workspace needs Linux; {elsewhere()}")
        if spec.mounts:
            raise CapabilityError("the process workspace shows the host as it is: no mounts")
        self._state = State.get()
        self.name = self._state.name("p")
        self.folder = self._state.path / "boxes" / self.name
        self.inner_workdir = str(self.folder / "files" / "work")
        self._from = files
        self._process: subprocess.Popen[bytes] | None = None

    def home(self, user: User | None) -> str:
        return str(self.folder / "files" / "home")

    def scratch(self) -> Path:
        return self.folder

    def inside(self, cwd: str | None) -> str:
        return super().inside(None if cwd is None else self.outside(cwd))

    def outside(self, path: str) -> str:
        inner, full = self.spec.workdir, posixpath.normpath(path)
        if full == inner or full.startswith(inner + "/"):
            return self.inner_workdir + full[len(inner) :]
        return path

    async def _start(self) -> None:
        files = self.folder / "files"
        if not self.folder.exists():
            await asyncio.to_thread(self._make_files, files)
        self._state.live[self.name] = self
        self.channel = Channel()
        self.channel.lost = self._lost
        limits = rlimits(self.spec.limits, grouped=False, own_namespace=False)
        command = [*helper().host, "serve", str(self.channel.peer.fileno()), *map(str, limits)]
        self._process = self._launch(command)
        self.channel.peer.close()
        root, _ = await self.channel.hello()
        self.tree = Tree(root, self.inner_workdir, [self.home(None)])
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._started = True
        watch(self)

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "errors").open("ab") as log:
            return subprocess.Popen(
                command,
                env={},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.channel.peer.fileno()],
                start_new_session=True,
            )

    def _make_files(self, files: Path) -> None:
        with full_disk("making the work folder"):
            self.folder.mkdir(mode=0o700)
            files.mkdir()
            if self._from is not None:
                copy_tree(self._from, files, None, raw=True)
                return
            (files / "home").mkdir()
            if self.spec.root is not None:
                copy_tree(self.spec.root, files / "work", None)
            else:
                (files / "work").mkdir()

    def _lost(self) -> WorkspaceLostError:
        if self._stopped:
            return WorkspaceLostError("this workspace was stopped")
        return WorkspaceLostError("the workspace's supervisor ended")

    def cpu_seconds(self) -> float:
        """Not counted without a control group: each process is bounded by itself."""
        return 0.0

    def changed(self) -> Path:
        return self.folder / "files"

    async def snapshot(self) -> ProcessSnapshot:
        """A full copy of the files."""
        await self.ensure_started()
        target = self._state.path / "layers" / self._state.name("s")
        await asyncio.to_thread(copy_tree, self.changed(), target, None, raw=True)
        return ProcessSnapshot(target)

    async def restore(self, snapshot: object) -> None:
        """Kill the processes and put the files back."""
        if not isinstance(snapshot, ProcessSnapshot) or not snapshot.path.exists():
            raise InputError("expected a snapshot of a process workspace that was not discarded")
        await self.kill()
        await asyncio.to_thread(self._put_back, snapshot.path)

    def _put_back(self, source: Path) -> None:
        for name in ("work", "home"):
            remove_tree(self.changed() / name)
        copy_tree(source, self.changed(), None, raw=True)

    async def fork(self, n: int) -> list[Workspace]:
        """``n`` workspaces with copies of the files."""
        if n < 1:
            raise InputError(f"expected to fork into at least one box, got {n}")
        snapshot = await self.snapshot()
        boxes: list[Workspace] = [type(self)(self.spec, files=snapshot.path) for _ in range(n)]
        try:
            for box in boxes:
                await box.start()
        finally:
            await snapshot.discard()
        return boxes

    def _remove(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
                self._process.wait(timeout=5)
        remove_tree(self.folder)
        self._state.live.pop(self.name, None)
