"""Limits of a whole box by control groups: version 2, else version 1, else none.

Where no control group can be made, `rlimits` still bounds each process (private memory, file size,
CPU time) and the number of processes of the box's user; `m2gym doctor` says which holds.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from m2gym.core.errors import InfraError
from m2gym.core.task import Limits

OVERHEAD_TASKS = 5
"""Processes of our own in a box (bubblewrap, process 1, a minder and its shell, and the minder that
waits), beside which the task's limit is counted; the project's choice."""

_CONTROLLERS = ("memory", "pids", "cpu")


@dataclass(frozen=True)
class Hierarchy:
    """Where groups are made: a folder for each controller that can be used."""

    version: int
    parents: dict[str, Path] = field(default_factory=dict)

    @property
    def has(self) -> frozenset[str]:
        return frozenset(self.parents)


@dataclass
class Group:
    """The control group of one box, possibly in several hierarchies."""

    version: int
    folders: dict[str, Path]

    @property
    def entries(self) -> list[str]:
        """Files to which a process writes ``0`` to enter."""
        return [str(path / "cgroup.procs") for path in dict.fromkeys(self.folders.values())]

    def oom_kills(self) -> int:
        """How often the kernel killed a process here for want of memory."""
        memory = self.folders.get("memory")
        if memory is None:
            return 0
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        for line in (memory / name).read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def cpu_seconds(self) -> float:
        """Processor time of everything that ran here, seconds; 0 where it is not counted."""
        if self.version == 2:
            folder = next(iter(self.folders.values()))
            for line in (folder / "cpu.stat").read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "usage_usec":
                    return int(value) / 1e6
            return 0.0
        counter = self.folders.get("cpuacct")
        return 0.0 if counter is None else int((counter / "cpuacct.usage").read_text()) / 1e9

    def remove(self) -> None:
        """Remove the group; its processes must be dying."""
        for folder in dict.fromkeys(self.folders.values()):
            _remove(folder)


def _remove(folder: Path) -> None:
    for wait in (0.0, 0.001, 0.004, 0.016, 0.064, 0.25, 0.5):
        time.sleep(wait)
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            continue
        return
    raise InfraError(f"the control group {folder} still holds processes and could not be removed")


@functools.cache
def hierarchy() -> Hierarchy:
    """The best hierarchy this process may use, tried by making a group in it."""
    two = _version_two()
    if "memory" in two.has and "pids" in two.has:
        return two
    one = _version_one()
    return one if one.parents else two


def _mounts(kind: str) -> list[tuple[str, Path, set[str]]]:
    found = []
    for line in _lines("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, (fstype, _, options) = left.split(" "), right.split(" ", 2)
        if fstype == kind:
            found.append((fields[3], Path(fields[4]), set(options.split(","))))
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _own_paths() -> dict[str, str]:
    paths = {}
    for line in _lines("/proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def _usable(folder: Path, needed: str) -> bool:
    probe = folder / f"m2gym-probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError:
        return False
    try:
        return os.access(probe / needed, os.W_OK)
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()


def _version_one() -> Hierarchy:
    own, parents = _own_paths(), {}
    needed = {
        "memory": "memory.limit_in_bytes",
        "pids": "pids.max",
        "cpu": "cpu.cfs_quota_us",
        "cpuacct": "cpuacct.usage",
    }
    for root, mount, options in _mounts("cgroup"):
        for name in needed:
            if name not in options:
                continue
            inner = os.path.relpath(own.get(name, "/"), root)
            for folder in (mount / inner if not inner.startswith("..") else mount, mount):
                if folder.is_dir() and _usable(folder, needed[name]):
                    parents[name] = folder
                    break
    if not {"memory", "pids"} & parents.keys():
        parents.pop("cpuacct", None)
    return Hierarchy(1, parents)


def _version_two() -> Hierarchy:
    own = _own_paths().get("", "/")
    for _, mount, _ in _mounts("cgroup2"):
        for folder in (mount, mount / own.lstrip("/")):
            known = (
                set((folder / "cgroup.controllers").read_text().split())
                if folder.is_dir()
                else set()
            )
            wanted = [name for name in _CONTROLLERS if name in known]
            if not {"memory", "pids"} <= set(wanted) or not os.access(folder, os.W_OK):
                continue
            if _delegate(folder, wanted) and _usable(folder, "memory.max"):
                return Hierarchy(2, dict.fromkeys(wanted, folder))
    return Hierarchy(2)


def _delegate(folder: Path, controllers: list[str]) -> bool:
    """Give the children of a group its controllers, moving this process into a leaf if need be
    (a group with processes of its own cannot have children with controllers)."""
    switch = folder / "cgroup.subtree_control"
    missing = set(controllers) - set(switch.read_text().split())
    order = " ".join(f"+{name}" for name in sorted(missing))
    for attempt in range(2):
        if not missing:
            return True
        try:
            switch.write_text(order)
        except OSError:
            if attempt or (folder / "cgroup.procs").read_text().split() != [str(os.getpid())]:
                return False
            leaf = folder / "m2gym-host"
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text("0")
        else:
            return True
    return False


def make_group(name: str, limits: Limits) -> Group | None:
    """A group with the limits set; ``None`` where the machine allows none."""
    where = hierarchy()
    if not where.parents:
        return None
    folders = {key: parent / name for key, parent in where.parents.items()}
    if limits.cpus is None and where.version == 1:
        folders.pop("cpu", None)
    if limits.memory_mb is None and where.version == 1:
        folders.pop("memory", None)
    if limits.cpu_seconds is None:
        folders.pop("cpuacct", None)
    group = Group(where.version, folders)
    try:
        for folder in dict.fromkeys(folders.values()):
            folder.mkdir()
        for file, value in _settings(where.version, limits).items():
            target = folders.get(file.split(".")[0])
            if target is not None:
                (target / file).write_text(value)
        for extra in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            path = folders["memory"] / extra if "memory" in folders else None
            if path is not None and path.exists() and limits.memory_mb is not None:
                path.write_text("0" if extra == "memory.swap.max" else str(limits.memory_mb << 20))
    except OSError as error:
        group.remove()
        raise InfraError(f"the control group {name} could not be set up: {error}") from error
    return group


def _settings(version: int, limits: Limits) -> dict[str, str]:
    settings = {}
    if limits.memory_mb is not None:
        key = "memory.max" if version == 2 else "memory.limit_in_bytes"
        settings[key] = str(limits.memory_mb << 20)
    if limits.processes is not None:
        settings["pids.max"] = str(limits.processes + OVERHEAD_TASKS)
    if limits.cpus is not None:
        quota = str(max(1000, round(limits.cpus * 100_000)))
        settings["cpu.max" if version == 2 else "cpu.cfs_quota_us"] = (
            f"{quota} 100000" if version == 2 else quota
        )
    return settings


def rlimits(limits: Limits, *, grouped: bool, own_namespace: bool) -> tuple[int, int, int, int]:
    """Soft and hard limits of every command: processes, private memory of one process, file size
    (bytes), CPU seconds; -1 is none.

    The first two stand in for a missing control group. Since Linux 5.14 the number of processes is
    counted within a box's user namespace; before, over all of a host user's.
    """
    processes = memory = -1
    if not grouped:
        if limits.processes is not None and own_namespace and linux() >= (5, 14):
            processes = limits.processes + OVERHEAD_TASKS
        if limits.memory_mb is not None:
            memory = limits.memory_mb << 20
    size = -1 if limits.disk_mb is None else limits.disk_mb << 20
    cpu = -1 if limits.cpu_seconds is None else max(1, round(limits.cpu_seconds))
    return processes, memory, size, cpu


def linux() -> tuple[int, ...]:
    """The kernel's version, as far as two numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def remove_groups_of(owner: str, parents: Iterable[Path]) -> None:
    """Remove the groups that a dead owner's boxes left below ``parents``."""
    for parent in dict.fromkeys(parents):
        for folder in parent.glob(f"{owner}-*"):
            with contextlib.suppress(InfraError):
                _remove(folder)


def group_of(pid: int) -> Group | None:
    """The control group that another program (a container engine) put a process in."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {
        name: path
        for _, names, path in (line.split(":", 2) for line in lines)
        for name in names.split(",")
    }
    folders: dict[str, Path] = {}
    for root, mount, options in _mounts("cgroup"):
        for name in ("memory", "cpuacct"):
            if name in options and name in paths:
                folders[name] = _below_root(mount, root, paths[name])
    if "memory" in folders:
        return Group(1, folders)
    for root, mount, _ in _mounts("cgroup2"):
        folder = _below_root(mount, root, paths.get("", "/"))
        if (folder / "memory.events").exists():
            return Group(2, {"memory": folder})
    return None


def _below_root(mount: Path, root: str, path: str) -> Path:
    inner = os.path.relpath(path, root)
    return mount / path.lstrip("/") if inner.startswith("..") else mount / inner
