"""Workspaces: boxes with files and commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2gym.core.errors import CapabilityError, InputError
from m2gym.core.registry import WORKSPACES
from m2gym.workspaces.allowlist import Allowlist

if TYPE_CHECKING:
    from m2gym.core.task import WorkspaceSpec
    from m2gym.core.workspace import Workspace

__all__ = ["check", "make_workspace"]


def make_workspace(spec: WorkspaceSpec, kind: str = "auto") -> Workspace:
    """A workspace that is not started yet.

    Args:
        spec: from what the box is made.
        kind: ``auto`` (local where bubblewrap works; docker for what needs an image), or a
            registered one: ``local``, ``docker``, ``process`` (no sandbox), or another package's.

    Raises:
        CapabilityError: this machine or this kind cannot give what the spec asks for; the message
            names the mend.
        UnknownIdError: no such kind.
    """
    if kind == "auto":
        kind = "docker" if _wants_image(spec) and "docker" in WORKSPACES else "local"
    box: Workspace = WORKSPACES.get(kind)(spec)
    check(spec, box.capabilities)
    return box


def check(spec: WorkspaceSpec, capabilities: frozenset[str]) -> None:
    """Refuse a spec that asks for what a workspace does not have.

    Memory, process and disk limits have documented fallbacks and are not demanded.

    Raises:
        CapabilityError: names what is missing.
        InputError: the allowed hosts do not fit the network, or one is no host.
    """
    wanted = {
        "network": spec.network == "public",
        "allowlist": spec.network == "allowlist",
        "image": _wants_image(spec),
        "limits.cpu": spec.limits.cpus is not None,
    }
    if spec.network == "allowlist":
        if not spec.allowed_hosts:
            raise InputError("network 'allowlist' needs allowed_hosts; for none, use 'none'")
        Allowlist(spec.allowed_hosts)
    elif spec.allowed_hosts:
        raise InputError(f"allowed_hosts goes with network 'allowlist', not {spec.network!r}")
    missing = sorted(name for name, asked in wanted.items() if asked and name not in capabilities)
    if missing:
        raise CapabilityError(
            f"the task asks for {', '.join(missing)}, which this workspace lacks; "
            f"it has {', '.join(sorted(capabilities))}"
            + ("; a container image needs workspace='docker'" if "image" in missing else "")
        )


def _wants_image(spec: WorkspaceSpec) -> bool:
    return spec.needs_image and (spec.image is not None or spec.build is not None)
