"""What this machine can do, each lack with the one command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

from m2gym.core.errors import InfraError, InputError
from m2gym.workspaces.probe import Finding, probe

EXTRAS = {
    "docker": ("docker",),
    "office": ("openpyxl",),
    "train": ("torch", "transformers", "safetensors"),
    "report": ("matplotlib",),
}
"""Extras of the package → modules that show they are there."""

LOW_DISK_GB = 5
"""Below so much free space `doctor` warns; the project's choice."""


def checks() -> Iterator[Finding]:
    """All of them, most important first."""
    yield _python()
    yield from probe()
    yield _docker()
    yield _registry_client()
    yield _disk()
    yield from _extras()
    yield _gpu()


def verl_checks() -> Iterator[Finding]:
    """The backend ``verl``: what is lacking, or that it is ready."""
    from m2gym.backends.verl.versions import VERSION, lacks

    found = list(lacks())
    for lack in found:
        yield Finding("backend verl", "missing", lack.what, lack.mend)
    if not found:
        yield Finding("backend verl", "ok", f"verl {VERSION} and what it imports")


def reap_dead() -> list[str]:
    """Remove folders, control groups, containers and snapshots of dead processes of this user;
    what was removed. Without an engine only the first two."""
    from m2gym.workspaces.docker_engine import engine
    from m2gym.workspaces.state import State, sweep

    removed = [f"boxes of {name}" for name in sweep(State.get().path.parent)]
    try:
        host = engine()
    except (InfraError, InputError):
        return removed
    return [*removed, *host.reaped, *host.reap()]


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", "ok", f"{text}, {os.cpu_count()} processors")


def _docker() -> Finding:
    """The engine; boxes of this machine go without it, so its lack is no more than a limit."""
    from m2gym.workspaces.docker_box import capabilities
    from m2gym.workspaces.docker_engine import engine

    try:
        able = capabilities()
        host = engine()
    except (InfraError, InputError) as error:
        reason, _, how = str(error).partition("; run: ")
        return Finding("docker workspace", "limited", reason, how)
    disk = "" if "limits.disk" in able else ", no limit of disk with this storage driver"
    return Finding("docker workspace", "ok", f"engine with {host.driver}{disk}")


def _registry_client() -> Finding:
    from m2gym.tasksets.registry.fetch import pip_python

    try:
        return Finding("task downloads", "ok", f"pip of {pip_python()}")
    except InfraError as error:
        return Finding("task downloads", "missing", str(error), f"{sys.executable} -m ensurepip")


def _disk() -> Finding:
    from m2gym.tasksets.registry.cache import default_root

    root = default_root()
    there = root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 1e9
    if not os.access(there, os.W_OK):
        return Finding("cache", "missing", f"{root} cannot be written", "export M2GYM_CACHE=FOLDER")
    state: Literal["ok", "limited"] = "ok" if free >= LOW_DISK_GB else "limited"
    how = "" if state == "ok" else "export M2GYM_CACHE=FOLDER_ON_A_LARGER_DISK"
    return Finding("cache", state, f"{root}, {free:.0f} GB free", how)


def _extras() -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        lacking = [name for name in modules if importlib.util.find_spec(name) is None]
        if lacking:
            how = f"{sys.executable} -m pip install 'm2gym[{extra}]'"
            yield Finding(f"extra {extra}", "limited", f"without {', '.join(lacking)}", how)
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(modules))


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding(
            "GPU", "limited", "none found: kernels run under the interpreter, on the CPU"
        )
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return Finding("GPU", "limited", "nvidia-smi fails", "nvidia-smi")
    return Finding("GPU", "ok", "; ".join(found.stdout.split("\n")).strip("; "))
