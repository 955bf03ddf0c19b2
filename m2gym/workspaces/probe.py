"""What this machine can do for local workspaces, and the one command that mends each lack."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Literal

from m2gym.workspaces import bubblewrap, seccomp
from m2gym.workspaces.helper import compiler, helper
from m2gym.workspaces.limits import hierarchy


@dataclass(frozen=True)
class Finding:
    """One line of ``m2gym doctor``: ``missing`` stops the main job, ``limited`` takes something
    away (what is left instead is in the detail), ``ok`` takes nothing."""

    name: str
    state: Literal["ok", "limited", "missing"]
    detail: str
    mend: str = ""


def probe() -> list[Finding]:
    """Everything local workspaces rest on, tried on this machine (about 50 ms)."""
    able = bubblewrap.ability()
    if not able.works:
        reason, _, command = able.reason.rpartition("; ")
        command = command.removeprefix("run: ")
        return [Finding("local workspace", "missing", reason or able.reason, command)]
    version = ".".join(map(str, bubblewrap.version()))
    return [
        Finding("local workspace", "ok", f"bubblewrap {version} at {able.bwrap}"),
        _users(able),
        _overlay(able),
        *_limits(),
        _seccomp(),
        _helper(),
    ]


def _users(able: bubblewrap.Ability) -> Finding:
    if able.users:
        return Finding(
            "second user for graders", "ok", "graded code cannot touch its verdict's file"
        )
    return Finding(
        "second user for graders",
        "limited",
        "one user in a box: grading rests on the fresh box alone",
        "run m2gym as root",
    )


def _overlay(able: bubblewrap.Ability) -> Finding:
    if able.overlay:
        return Finding("overlay mounts", "ok", "snapshot and fork cost what a box has changed")
    return Finding(
        "overlay mounts",
        "limited",
        "overlay mounts are refused: snapshot and fork copy the whole tree",
        "use Linux 5.11 or newer, or put TMPDIR on a file system that overlay accepts (ext4, xfs)",
    )


def _limits() -> list[Finding]:
    where = hierarchy()
    if {"memory", "pids"} <= where.has:
        parts = ", ".join(sorted(where.has))
        findings = [Finding("limits of a box", "ok", f"control groups v{where.version}: {parts}")]
    else:
        mend = (
            "mount the memory and pids controllers"
            if os.getuid() == 0
            else "systemd-run --user --scope -p Delegate=yes m2gym …"
        )
        text = "no control groups: memory is bounded per process, processes per box"
        findings = [Finding("limits of a box", "limited", text, mend)]
    if "cpu" not in where.has:
        text = "shares of processors (cpus) cannot be set"
        findings.append(Finding("limit of processors", "limited", text))
    text = "the sum of a box's files is looked at twice a second"
    return [*findings, Finding("limit of disk", "ok", text)]


def _seccomp() -> Finding:
    machine = platform.machine()
    if seccomp.program() is not None:
        return Finding("system calls", "ok", f"seccomp filter for {machine}")
    return Finding("system calls", "limited", f"no filter for {machine}", "use x86_64 or aarch64")


def _helper() -> Finding:
    kind = helper()
    if kind.language == "c":
        return Finding("supervisor", "ok", kind.host[0])
    have = "the compiler failed" if compiler() else "no C compiler"
    return Finding(
        "supervisor", "limited", f"{have}: Python's is used, 7 MB a box", "apt-get install -y gcc"
    )
