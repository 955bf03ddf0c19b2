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

from m2gym.core.errors import CapabilityError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import User
from m2gym.workspaces.bubblewrap import elsewhere
from m2gym.workspaces.channel import Channel
from m2gym.workspaces.files import Tree
from m2gym.workspaces.helper import helper
from m2gym.workspaces.layers import copy_tree
from m2gym.workspaces.limits import rlimits
from m2gym.workspaces.snapshot import Snapshot
from m2gym.workspaces.state import full_disk, remove_tree
from m2gym.workspaces.supervised import SupervisedWorkspace

CAPABILITIES = frozenset({"fork", "listen", "network", "limits.disk"})


class ProcessWorkspace(SupervisedWorkspace):
    """No sandbox: commands run on the host itself, in a temporary folder; only when asked for."""

    kind = "process"

    def __init__(self, spec: WorkspaceSpec, *, snapshot: Snapshot | None = None) -> None:
        super().__init__(spec, CAPABILITIES, snapshot=snapshot)
        if os.uname().sysname != "Linux":
            raise CapabilityError(f"the process workspace needs Linux; {elsewhere()}")
        if spec.mounts:
            raise CapabilityError("the process workspace shows the host as it is: no mounts")
        self.inner_workdir = str(self.folder / "files" / "work")
        self._process: subprocess.Popen[bytes] | None = None

    def home(self, user: User | None) -> str:
        return str(self.folder / "files" / "home")

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
        self._speak(Channel())
        limits = rlimits(self.spec.limits, grouped=False, own_namespace=False)
        command = [*helper().host, "serve", str(self.channel.peer.fileno()), *map(str, limits)]
        self._process = self._launch(command)
        self.channel.peer.close()
        root, _ = await self.channel.hello()
        self.tree = Tree(root, self.inner_workdir, [self.home(None)])

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
            if self._snapshot is not None:
                copy_tree(self._snapshot.content, files, None, raw=True)
                self._drop_snapshot()
                return
            (files / "home").mkdir()
            if self.spec.root is not None:
                copy_tree(self.spec.root, files / "work", None)
            else:
                (files / "work").mkdir()

    def _why(self) -> str:
        return "the workspace's supervisor ended"

    def changed(self) -> Path:
        return self.folder / "files"

    async def _freeze(self, holders: int = 1) -> Snapshot:
        target = self._state.path / "layers" / self._state.name("s")
        await asyncio.to_thread(copy_tree, self.changed(), target, None, raw=True)
        return Snapshot(self.kind, target, lambda: remove_tree(target), holders)

    async def _thaw(self, snapshot: Snapshot) -> None:
        await self.kill()
        await asyncio.to_thread(self._put_back, snapshot.content)

    def _put_back(self, source: Path) -> None:
        for name in ("work", "home"):
            remove_tree(self.changed() / name)
        copy_tree(source, self.changed(), None, raw=True)

    def _let_go(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
                self._process.wait(timeout=5)
