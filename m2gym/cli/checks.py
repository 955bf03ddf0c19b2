"""What this machine can do, each lack with the one command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from m2gym.core.errors import InfraError

EXTRAS = {
    "office": ("openpyxl",),
    "train": ("torch", "transformers", "safetensors"),
    "report": ("matplotlib",),
}
"""Extras of the package → modules that show they are there."""

LOW_DISK_GB = 5
"""Below so much free space `doctor` warns; the project's choice."""


@dataclass(frozen=True)
class Check:
    """``missing`` stops the main job, ``limited`` takes something away, ``ok`` takes nothing."""

    name: str
    state: Literal["ok", "limited", "missing"]
    detail: str
    mend: str = ""


def checks() -> Iterator[Check]:
    """All of them, most important first."""
    yield _python()
    yield from _sandbox()
    yield _limits()
    yield _registry_client()
    yield _disk()
    yield from _extras()
    yield _gpu()


def _python() -> Check:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", f"{text}, {os.cpu_count()} processors")


def _sandbox() -> Iterator[Check]:
    from m2gym.workspaces.bubblewrap import ability, install_command, mend

    able = ability()
    if not able.works:
        how = mend().removeprefix("run: ") if able.bwrap else install_command()
        yield Check("local workspace", "missing", able.reason, how)
        return
    yield Check("local workspace", "ok", f"bubblewrap at {able.bwrap}")
    if able.users:
        yield Check("second user for graders", "ok", "graded code cannot touch its verdict's file")
    else:
        yield Check(
            "second user for graders",
            "limited",
            "grading rests on the fresh box alone",
            f"sudo {sys.executable} -m m2gym doctor",
        )
    if able.overlay:
        yield Check("overlay mounts", "ok", "fork and snapshot cost nothing for unchanged files")
    else:
        yield Check(
            "overlay mounts",
            "limited",
            "fork and snapshot copy files",
            f"sudo {sys.executable} -m m2gym doctor",
        )


def _limits() -> Check:
    if platform.system() != "Linux":
        return Check("limits of a box", "missing", "need Linux", "use a Linux machine")
    from m2gym.workspaces.limits import hierarchy

    found = hierarchy()
    if found.has >= {"memory", "pids"}:
        kinds = ", ".join(sorted(found.has))
        return Check("limits of a box", "ok", f"control groups v{found.version}: {kinds}")
    return Check(
        "limits of a box",
        "limited",
        "per process only: no control group for memory and processes can be made",
        "systemd-run --user --scope -p Delegate=yes m2gym doctor",
    )


def _registry_client() -> Check:
    from m2gym.tasksets.fetch import pip_python

    try:
        return Check("task downloads", "ok", f"pip of {pip_python()}")
    except InfraError as error:
        return Check("task downloads", "missing", str(error), f"{sys.executable} -m ensurepip")


def _disk() -> Check:
    from m2gym.tasksets.cache import default_root

    root = default_root()
    there = root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 1e9
    if not os.access(there, os.W_OK):
        return Check("cache", "missing", f"{root} cannot be written", "export M2GYM_CACHE=FOLDER")
    state: Literal["ok", "limited"] = "ok" if free >= LOW_DISK_GB else "limited"
    how = "" if state == "ok" else "export M2GYM_CACHE=FOLDER_ON_A_LARGER_DISK"
    return Check("cache", state, f"{root}, {free:.0f} GB free", how)


def _extras() -> Iterator[Check]:
    for extra, modules in EXTRAS.items():
        lacking = [name for name in modules if importlib.util.find_spec(name) is None]
        if lacking:
            how = f"{sys.executable} -m pip install 'm2gym[{extra}]'"
            yield Check(f"extra {extra}", "limited", f"without {', '.join(lacking)}", how)
        else:
            yield Check(f"extra {extra}", "ok", ", ".join(modules))


def _gpu() -> Check:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("GPU", "limited", "none found: kernels run under the interpreter, on the CPU")
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return Check("GPU", "limited", "nvidia-smi fails", "nvidia-smi")
    return Check("GPU", "ok", "; ".join(found.stdout.split("\n")).strip("; "))
