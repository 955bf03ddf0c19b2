"""The e2b workspace: a sandbox of the E2B service, a small virtual machine somewhere else.

One command, run as root when the sandbox comes up, is the agent of `m2gym.workspaces.remote`; what
a box is asked for goes over its input and output. Files go through E2B's own file routes to a
folder of root's, and from there, walked by us, into place.

A sandbox ends by itself `LEASE_SECONDS` after its owner last asked for it: a dead owner leaves
nothing for longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import CapabilityError, InfraError, InputError, WorkspaceLostError
from m2gym.core.task import Mount, WorkspaceSpec
from m2gym.core.workspace import User
from m2gym.workspaces.channel import Channel
from m2gym.workspaces.e2b_client import failures, sdk
from m2gym.workspaces.limits import rlimits
from m2gym.workspaces.remote import Remote, program
from m2gym.workspaces.remote_files import STORE
from m2gym.workspaces.snapshot import Snapshot
from m2gym.workspaces.state import full_disk
from m2gym.workspaces.supervised import PATH, SupervisedWorkspace

LEASE_SECONDS = 300
"""How long a sandbox outlives the last sign of its owner; the project's choice."""

START_SECONDS = 120.0
"""How long a sandbox may take to come up; the project's choice."""

CAPABILITIES = frozenset({"sandbox", "users", "fork", "network", "image"})
"""Processors, memory and disk are the template's, not the task's."""

_NOT_PASSED = frozenset({"HOME", "USER", "LOGNAME", "PWD", "OLDPWD", "SHLVL", "_", "SHELL", "MAIL"})


class E2BWorkspace(SupervisedWorkspace):
    """A sandbox of the E2B service; ``image`` is a template's name."""

    kind = "e2b"
    counted = True

    def __init__(self, spec: WorkspaceSpec, *, snapshot: Snapshot | None = None) -> None:
        super().__init__(spec, CAPABILITIES, snapshot=snapshot)
        sdk()
        if spec.build is not None and spec.needs_image and spec.image is None:
            raise CapabilityError(
                "e2b makes boxes from templates, not from a task's Dockerfile; build one "
                "(e2b template build) and name it as the task's image"
            )
        self._sandbox: Any = None
        self._remote: Remote | None = None
        self._numbers = itertools.count(1)

    def environment(self, user: User | None, extra: Mapping[str, str] | None) -> list[bytes]:
        """The template's variables, then what every box has, then the task's."""
        variables = self._remote.variables if self._remote is not None else {}
        own = {k: v for k, v in variables.items() if k not in _NOT_PASSED}
        return super().environment(user, {"PATH": PATH, **own, **self.spec.env, **(extra or {})})

    async def _start(self) -> None:
        with full_disk("making a box's folder"):
            self.folder.mkdir(mode=0o700, exist_ok=True)
        self._speak(Channel())
        self._remote = await asyncio.to_thread(self._bring_up)
        try:
            async with asyncio.timeout(START_SECONDS):
                root, _ = await self.channel.hello()
        except TimeoutError:
            raise WorkspaceLostError(
                f"the sandbox did not come up within {START_SECONDS:g} s"
            ) from None
        os.close(root)
        await self._fill()

    def _bring_up(self) -> Remote:
        e2b, spec = sdk(), self.spec
        with failures("making a sandbox"):
            self._sandbox = e2b.Sandbox.create(
                spec.image,
                timeout=LEASE_SECONDS,
                allow_internet_access=spec.network == "public",
                metadata={"m2gym": self._state.owner},
            )
            self._sandbox.files.write(f"{STORE}/agent.zip", program(), user="root")
            bounds = map(str, rlimits(spec.limits, grouped=False, own_namespace=True))
            running = self._sandbox.commands.run(
                f"chmod 700 {STORE} && exec python3 -I -S -B {STORE}/agent.zip {' '.join(bounds)}",
                background=True,
                user="root",
                cwd="/",
                stdin=True,
                timeout=0,
                retain_output=False,
            )
        remote = Remote(
            self.channel.peer,
            _text(running),
            lambda text: self._sandbox.commands.send_stdin(running.pid, text),
            lambda: self._sandbox.set_timeout(LEASE_SECONDS),
            LEASE_SECONDS / 4,
        )
        remote.start()
        return remote

    async def _fill(self) -> None:
        spec = self.spec
        await self._act("prepare", workdir=spec.workdir, links=dict(spec.links))
        for mount in spec.mounts:
            target, data = await asyncio.to_thread(_packed_mount, mount)
            await self._act("mount", out_of=await self._send(data), target=target)
        if self._snapshot is not None:
            data = await asyncio.to_thread(self._snapshot.content.read_bytes)
            await self._act("thaw", out_of=await self._send(data))
        elif spec.root is not None:
            data = await asyncio.to_thread(_packed, spec.root)
            owner = self.ids("agent")
            await self._act("unpack", out_of=await self._send(data), path=".", owner=owner)

    async def _act(self, what: str, **named: Any) -> None:
        if self._remote is None:
            raise self._lost()
        await asyncio.wrap_future(self._remote.call(what, **named))

    def _place(self) -> str:
        return f"{STORE}/{next(self._numbers)}"

    async def _send(self, data: bytes) -> str:
        """Bring bytes into the box's store; their path there."""
        path = self._place()

        def send() -> None:
            with failures("sending files to a sandbox"):
                self._sandbox.files.write(path, data, user="root", use_octet_stream=True)

        await asyncio.to_thread(send)
        return path

    async def _fetch(self, path: str) -> bytes:
        def fetch() -> bytes:
            with failures("fetching files of a sandbox"):
                return bytes(self._sandbox.files.read(path, format="bytes", user="root"))

        data = await asyncio.to_thread(fetch)
        await self._act("forget", path=path)
        return data

    async def read(self, path: str) -> bytes:
        """A regular file's bytes; links that lead outside raise `PermissionError`."""
        await self.ensure_started()
        into = self._place()
        await self._act("read", path=path, into=into)
        return await self._fetch(into)

    async def write(
        self, path: str, data: bytes, *, mode: int = 0o644, user: User | None = None
    ) -> None:
        """Put a file in place at once."""
        await self.ensure_started()
        place = await self._send(data)
        await self._act("write", path=path, out_of=place, mode=mode, owner=self.ids(user))

    async def export(self, paths: Sequence[str], *, base: str | None = None) -> bytes:
        """A tar of paths below the work folder, made by our agent and not by the box's tools."""
        await self.ensure_started()
        into, limit = self._place(), self.spec.limits.disk_mb
        bound = None if limit is None else limit << 20
        await self._act("export", paths=list(paths), limit=bound, into=into, base=base)
        return await self._fetch(into)

    async def unpack(self, tar: bytes, *, path: str = ".", user: User | None = None) -> None:
        """Put a tar's files below ``path``."""
        await self.ensure_started()
        place = await self._send(tar)
        await self._act("unpack", out_of=place, path=path, owner=self.ids(user))

    async def _freeze(self, holders: int = 1) -> Snapshot:
        """A tar of what the box's users can write, on the host."""
        into = self._place()
        await self._act("freeze", into=into)
        data = await self._fetch(into)
        path = self._state.path / "layers" / self._state.name("s")
        with full_disk("keeping a snapshot"):
            path.parent.mkdir(exist_ok=True)
            await asyncio.to_thread(path.write_bytes, data)
        return Snapshot(self.kind, path, lambda: path.unlink(missing_ok=True), holders)

    async def _thaw(self, snapshot: Snapshot) -> None:
        await self.kill()
        data = await asyncio.to_thread(snapshot.content.read_bytes)
        await self._act("thaw", out_of=await self._send(data))

    def _why(self) -> str:
        return self._remote.why() if self._remote else "the box is gone"

    def watched(self) -> bool:
        return False

    def _end_processes(self) -> None:
        super()._end_processes()
        if self._remote is None and hasattr(self, "channel"):
            self.channel.peer.close()

    def _let_go(self) -> None:
        """A service that is out of reach ends the sandbox with its lease."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            with contextlib.suppress(InfraError), failures("ending a sandbox"):
                sandbox.kill()


def _text(running: Any) -> Iterator[str]:
    """What our agent says; its complaints become the error that the box is lost by."""
    complaint = ""
    with failures("the connection to a sandbox"):
        for out, err, _ in running:
            complaint = (complaint + (err or ""))[-2000:]
            if out:
                yield out
    said = complaint.strip() or "its agent ended"
    if "python3" in said and "not found" in said:
        said += "; our agent needs python3 in the template"
    raise WorkspaceLostError(said)


def _packed(root: Path) -> bytes:
    """A tar of a folder's content."""
    if not root.is_dir():
        raise InputError(f"expected spec.root to be a folder, got {root}")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(root.iterdir()):
            tar.add(entry, arcname=entry.name, filter=_plain)
    return out.getvalue()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return info if info.isreg() or info.isdir() or info.issym() or info.islnk() else None


def _packed_mount(mount: Mount) -> tuple[str, bytes]:
    """Where a mount is laid, and a tar of it."""
    if mount.source.is_dir():
        return mount.target, _packed(mount.source)
    out = io.BytesIO()
    folder, _, name = mount.target.rstrip("/").rpartition("/")
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(mount.source.resolve(), arcname=name, filter=_plain)
    return folder or "/", out.getvalue()
