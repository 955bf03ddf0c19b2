"""``files``: a workspace of files in memory, without commands.

For tasks whose agent acts by tools of ours alone and whose rewards only look at files: questions,
plans, texts. It starts in microseconds and nothing in it can run. The two argument vectors by which
a verifier clears its box are done here; every other command is a `CapabilityError`.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from m2gym.core.errors import CapabilityError, InputError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Command, ExecResult, Snapshot, User, Workspace

CLEAR = ("rm", "-rf", "--")
CLEAR_ALL = ("find", ".", "-mindepth", "1", "-delete")


@dataclass(frozen=True)
class _File:
    data: bytes
    mode: int = 0o644
    link: str = ""


Files = dict[str, _File]


class MemorySnapshot:
    """The files of a moment."""

    def __init__(self, files: Files) -> None:
        self.files = files

    async def discard(self) -> None:
        """Nothing is held elsewhere."""


class MemoryWorkspace:
    """See the module; paths outside the work folder are refused."""

    kind = "files"
    capabilities = frozenset({"fork", "sandbox"})

    def __init__(self, spec: WorkspaceSpec) -> None:
        self.spec = spec
        self._files: Files = {}
        self._live = False

    async def start(self) -> None:
        """Take the files of ``spec.root``."""
        self._files = dict(_tree(self.spec.root)) if self.spec.root is not None else {}
        self._live = True

    async def exec(
        self,
        command: Command,
        *,
        timeout: float | None = None,
        user: User | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> ExecResult:
        """Clear files, as a verifier does.

        Raises:
            CapabilityError: any other command.
        """
        self._check()
        words = () if isinstance(command, str) else tuple(command)
        if words == CLEAR_ALL:
            self._files.clear()
        elif words[:3] == CLEAR:
            for path in words[3:]:
                name = self._name(path)
                for held in [f for f in self._files if _within(f, name)]:
                    del self._files[held]
        else:
            self._no_commands()
        return ExecResult(0, b"")

    async def spawn(self, command: Command, **_: object) -> NoReturn:
        """No process can run."""
        self._no_commands()

    async def shell(self, *, user: User | None = None) -> NoReturn:
        """No shell can run."""
        self._no_commands()

    async def listen(self, port: int) -> NoReturn:
        """There is no network."""
        self._no_commands()

    async def read(self, path: str) -> bytes:
        """See `m2gym.core.workspace.Workspace.read`."""
        self._check()
        found = self._files.get(self._name(path))
        if found is None or found.link:
            raise FileNotFoundError(f"no file {path!r}")
        return found.data

    async def write(
        self, path: str, data: bytes, *, mode: int = 0o644, user: User | None = None
    ) -> None:
        """Write a file."""
        self._check()
        name = self._name(path)
        if name == ".":
            raise IsADirectoryError(f"{path!r} is a folder")
        self._files[name] = _File(bytes(data), mode)

    async def export(self, paths: Sequence[str], *, base: str | None = None) -> bytes:
        """A tar of paths of the work folder, which is all there is."""
        self._check()
        if base is not None:
            raise InputError("a box in memory has its work folder only: nothing else is exported")
        wanted = [self._name(path) for path in paths]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, file in sorted(self._files.items()):
                if not any(_within(name, part) for part in wanted):
                    continue
                info = tarfile.TarInfo(name)
                info.mode, info.size = file.mode, len(file.data)
                if file.link:
                    info.type, info.linkname, info.size = tarfile.SYMTYPE, file.link, 0
                tar.addfile(info, io.BytesIO(file.data) if not file.link else None)
        return buffer.getvalue()

    async def unpack(self, tar: bytes, *, path: str = ".", user: User | None = None) -> None:
        """Take a tar's files and links."""
        self._check()
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as source:
            for member in source:
                name = self._name(posixpath.join(path, member.name))
                if member.isreg():
                    handle = source.extractfile(member)
                    self._files[name] = _File(handle.read() if handle else b"", member.mode)
                elif member.issym():
                    self._files[name] = _File(b"", 0o777, member.linkname)

    async def kill(self) -> None:
        """No process runs."""
        self._check()

    async def snapshot(self) -> Snapshot:
        """The files as they are."""
        self._check()
        return MemorySnapshot(dict(self._files))

    async def restore(self, snapshot: Snapshot) -> None:
        """The files as they were."""
        self._check()
        if not isinstance(snapshot, MemorySnapshot):
            raise InputError("the snapshot is of another kind of workspace")
        self._files = dict(snapshot.files)

    async def fork(self, n: int) -> list[Workspace]:
        """Independent ones with the same files."""
        self._check()
        if n < 1:
            raise InputError(f"fork needs at least one, got {n}")
        children: list[Workspace] = []
        for _ in range(n):
            child = MemoryWorkspace(self.spec)
            child._files, child._live = dict(self._files), True
            children.append(child)
        return children

    async def stop(self) -> None:
        """Forget the files."""
        self._files, self._live = {}, False

    def _check(self) -> None:
        if not self._live:
            raise WorkspaceLostError("the workspace is not running: start it first")

    def _name(self, path: str) -> str:
        workdir = self.spec.workdir
        whole = posixpath.normpath(posixpath.join(workdir, path))
        if whole == workdir:
            return "."
        if not whole.startswith(workdir + "/"):
            raise PermissionError(f"{path!r} lies outside {workdir}")
        return whole[len(workdir) + 1 :]

    def _no_commands(self) -> NoReturn:
        raise CapabilityError(
            "workspace 'files' runs no commands; use --workspace local for a task that needs them"
        )


def _within(name: str, part: str) -> bool:
    return part == "." or name == part or name.startswith(part + "/")


def _tree(root: Path) -> Files:
    found: Files = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = _File(b"", 0o777, str(path.readlink()))
        elif path.is_file():
            found[name] = _File(path.read_bytes(), path.stat().st_mode & 0o777)
    return found
