"""The docker workspace: a container of the engine on this machine.

Process 1 of the container is our supervisor, as in a local box. It dials a socket of the owner that
the engine shows it, and from then on commands, pipes, files and listening sockets go over that one
connection, past the engine: a command costs what it costs in a local box, and not an exec of the
engine. When the connection closes, because the owner stopped the box or died, process 1 ends, the
kernel ends every other process, and the engine removes the container.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2gym.core.errors import CapabilityError, InfraError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import User
from m2gym.workspaces import docker_enter
from m2gym.workspaces.bubblewrap import HOMES
from m2gym.workspaces.channel import Channel
from m2gym.workspaces.docker_engine import ask, engine
from m2gym.workspaces.docker_images import environment_of, image_of
from m2gym.workspaces.files import Owner, Tree
from m2gym.workspaces.helper import INSIDE, compiled
from m2gym.workspaces.limits import OVERHEAD_TASKS, group_of, rlimits
from m2gym.workspaces.snapshot import Snapshot
from m2gym.workspaces.state import full_disk
from m2gym.workspaces.supervised import PATH, SupervisedWorkspace

START_SECONDS = 120.0
"""How long a container may take to come up on a crowded machine; the project's choice."""

LOOK_SECONDS = 2.0
"""Between looks at whether a container that does not come up still is; the project's choice."""

ROOT_MAY = [
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID",
    "SYS_CHROOT",
]  # fmt: skip
"""What user 0 of a box keeps: enough for installing packages, nothing of the machine's."""

_CAPABILITIES = frozenset(
    {
        "sandbox", "users", "listen", "network", "allowlist", "fork", "image",
        "limits.memory", "limits.processes", "limits.cpu",
    }
)  # fmt: skip


def capabilities() -> frozenset[str]:
    """What a docker box can do here.

    Raises:
        CapabilityError: no SDK, an engine elsewhere, or a user who may not enter a box's files.
        InfraError: the engine does not answer.
    """
    if os.getuid() != 0:
        raise CapabilityError(
            "the docker workspace takes files out of a box past its users, which only root may; "
            "run m2gym as root, or use workspace='local'"
        )
    found = set(_CAPABILITIES)
    if engine().driver in ("overlay2", "overlay"):
        found.add("limits.disk")
    return frozenset(found)


class DockerWorkspace(SupervisedWorkspace):
    """A container: its own image, files, processes, users and no network."""

    kind = "docker"
    counted = True

    def __init__(self, spec: WorkspaceSpec, *, snapshot: Snapshot | None = None) -> None:
        super().__init__(spec, capabilities(), snapshot=snapshot)
        self._engine = engine()
        self._variables: dict[str, str] = {}
        self._first_id = 0
        self._upper: Path | None = None
        self._alive = self._pid = -1
        self._entered: subprocess.Popen[bytes] | None = None
        self.container = ""

    def owner(self, user: User | None) -> Owner:
        number = self._first_id + self.number(user)
        return number, number

    def environment(self, user: User | None, extra: Mapping[str, str] | None) -> list[bytes]:
        """The image's variables, then what every box has, then the task's."""
        own = {k: v for k, v in self._variables.items() if k not in ("HOME", "USER", "LOGNAME")}
        return super().environment(user, {"PATH": PATH, **own, **self.spec.env, **(extra or {})})

    def _image(self) -> str:
        snapshot = self._snapshot
        image: str = snapshot.content if snapshot else image_of(self._engine, self.spec)
        self._variables = environment_of(self._engine, image)
        return image

    async def _start(self) -> None:
        image = await asyncio.to_thread(self._image)
        listener = await asyncio.to_thread(self._show)
        try:
            await asyncio.to_thread(self._create, image)
            if self._alive < 0:
                self._speak(Channel(await self._accept(listener)))
            else:
                self._speak(await asyncio.to_thread(self._enter))
        finally:
            listener.close()
            (self.folder / "shown" / "owner").unlink(missing_ok=True)
        root, pid = await self.channel.hello()
        self.tree = Tree(root, self.spec.workdir, [*HOMES.values(), "/tmp"])
        self._first_id = _first_id(pid)
        self._group = group_of(pid)

    def _show(self) -> socket.socket:
        """The folder that the container sees, with the supervisor and a socket to dial."""
        shown = self.folder / "shown"
        program = compiled() if os.environ.get("M2GYM_SUPERVISOR", "c") != "python" else None
        source = program or Path(__file__).with_name("supervisor.py")
        with full_disk("making a box's folder"):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            shown.mkdir(mode=0o755, exist_ok=True)
            target = shown / ("supervisor" if program else "supervisor.py")
            if not target.exists():
                try:
                    os.link(source, target)
                except OSError:
                    shutil.copy(source, target)
        (shown / "owner").unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.bind(str(shown / "owner"))
        (shown / "owner").chmod(0o666)
        listener.listen(1)
        listener.setblocking(False)
        return listener

    def _command(self) -> list[str]:
        bounds = map(str, rlimits(self.spec.limits, grouped=True, own_namespace=True))
        if (self.folder / "shown" / "supervisor").exists():
            return [f"{INSIDE}/supervisor", "connect", f"{INSIDE}/owner", *bounds]
        flags = ("-I", "-S", "-B", f"{INSIDE}/supervisor.py")
        return ["python3", *flags, "connect", f"{INSIDE}/owner", *bounds]

    def _create(self, image: str) -> None:
        limits, api = self.spec.limits, self._engine.api
        binds = [f"{self.folder / 'shown'}:{INSIDE}:ro"]
        binds += [f"{mount.source}:{mount.target}:ro" for mount in self.spec.mounts]
        memory = None if limits.memory_mb is None else limits.memory_mb << 20
        settings = api.create_host_config(
            binds=binds,
            auto_remove=True,
            network_mode="bridge" if self.spec.network == "public" else "none",
            cap_drop=["ALL"],
            cap_add=ROOT_MAY,
            security_opt=["no-new-privileges"],
            mem_limit=memory,
            memswap_limit=memory,
            shm_size=min(64 << 20, memory or 64 << 20),
            pids_limit=None if limits.processes is None else limits.processes + OVERHEAD_TASKS,
            nano_cpus=None if limits.cpus is None else max(1, round(limits.cpus * 1e9)),
            log_config={"Type": "json-file", "Config": {"max-size": "64k"}},
        )
        try:
            self._run(image, self._command(), settings)
        except InfraError as error:
            if "python3" not in str(error) or "not found" not in str(error):
                raise
            self._remove_container()
            self._alive = docker_enter.pipe(self.folder / "shown")
            self._run(image, docker_enter.KEEPER, settings)
        layers = ask("looking at a container", api.inspect_container, self.container)
        upper = ((layers.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
        self._upper = Path(upper) if upper and os.access(upper, os.R_OK) else None
        self._pid = int(layers["State"]["Pid"])

    def _run(self, image: str, command: list[str], settings: dict[str, Any]) -> None:
        api = self._engine.api
        made = ask(
            "creating a container", api.create_container, image,
            entrypoint=command[:1], command=command[1:], hostname="box", user="0:0",
            working_dir="/", labels=self._engine.labels(), host_config=settings,
            healthcheck={"test": ["NONE"]},
        )  # fmt: skip
        self.container = str(made["Id"])
        ask("starting a container", api.start, self.container)

    def _enter(self) -> Channel:
        """A channel to a supervisor that is run from outside."""
        channel = Channel()
        bounds = rlimits(self.spec.limits, grouped=True, own_namespace=True)
        number = channel.peer.fileno()
        self._entered = docker_enter.enter(self._pid, number, bounds, ROOT_MAY)
        channel.peer.close()
        return channel

    async def _accept(self, listener: socket.socket) -> socket.socket:
        loop = asyncio.get_running_loop()
        dialled = asyncio.ensure_future(loop.sock_accept(listener))
        end = loop.time() + START_SECONDS
        try:
            while loop.time() < end:
                await asyncio.wait({dialled}, timeout=LOOK_SECONDS)
                if dialled.done():
                    return dialled.result()[0]
                if not await asyncio.to_thread(self._engine.has_container, self.container):
                    raise WorkspaceLostError("the container ended before it was up")
        finally:
            if not dialled.done():
                dialled.cancel()
        raise WorkspaceLostError(f"the container did not come up within {START_SECONDS:g} s")

    def _why(self) -> str:
        return self._out_of_memory() or (
            "the box died: its container ended (was it, or the engine, killed or restarted?)"
        )

    def watched(self) -> bool:
        return self._upper is not None

    def changed(self) -> Path:
        """The folder of the host that holds what the box wrote."""
        return self._upper or self.folder

    async def _freeze(self, holders: int = 1) -> Snapshot:
        """Processes are paused meanwhile."""
        image = await asyncio.to_thread(self._commit)
        return Snapshot(self.kind, image, lambda: self._engine.remove_image(image), holders)

    def _commit(self) -> str:
        labels = " ".join(f"{k}={v}" for k, v in self._engine.labels().items())
        made: dict[str, Any] = ask(
            "taking a snapshot", self._engine.api.commit, self.container,
            changes=[f"LABEL {labels}"],
        )  # fmt: skip
        return str(made["Id"])

    async def _thaw(self, snapshot: Snapshot) -> None:
        """End the container and start another from the snapshot's files."""
        self._end_processes()
        await asyncio.to_thread(self._remove_container)
        snapshot.hold()
        await asyncio.to_thread(self._drop_snapshot)
        self._snapshot = snapshot
        await self.ensure_started()

    def _remove_container(self) -> None:
        name, self.container, self._upper = self.container, "", None
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        if name:
            self._engine.remove_container(name)
        if self._entered is not None:
            self._entered.wait(timeout=START_SECONDS)
            self._entered = None

    def _let_go(self) -> None:
        """An engine that is down leaves the container to the reaper."""
        with contextlib.suppress(InfraError):
            self._remove_container()


def _first_id(pid: int) -> int:
    """The host's id of a process's user 0."""
    first = Path(f"/proc/{pid}/uid_map").read_text().split()
    return int(first[1]) if len(first) >= 3 and first[0] == "0" else 0
