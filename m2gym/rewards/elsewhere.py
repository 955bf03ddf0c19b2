"""Declared artifacts outside of the work folder: taken out, cleaned, and put back at their places.

Only a sandbox has places of its own beside the work folder; of another box nothing is taken.
"""

from __future__ import annotations

import asyncio
import posixpath
import tarfile
from collections.abc import Sequence

from m2gym.core.errors import InfraError
from m2gym.core.workspace import User, Workspace
from m2gym.rewards.exported import Exported, clean


def parted(artifacts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths below the work folder, and absolute ones."""
    outside = [path for path in artifacts if path.startswith("/")]
    return [path for path in artifacts if not path.startswith("/")], outside


async def take(box: Workspace, paths: Sequence[str]) -> Exported | None:
    """A cleaned tar of absolute paths, names relative to the box's root.

    Raises:
        InfraError: what the box gave is no tar.
    """
    if not paths or "sandbox" not in box.capabilities:
        return None
    packed = await box.export(list(paths), base="/")
    try:
        return await asyncio.to_thread(clean, packed)
    except tarfile.TarError as error:
        raise InfraError(f"the exported artifacts are no readable tar: {error}") from error


async def put(box: Workspace, paths: Sequence[str], exported: Exported) -> None:
    """Make the paths equal what was taken; folders above them are root's.

    Raises:
        InfraError: the box refused.
    """
    user: User | None = "root" if "users" in box.capabilities else None
    above = sorted({posixpath.dirname(path) for path in paths} - {"/"})
    for command in (["rm", "-rf", "--", *paths], ["mkdir", "-p", "--", *above]):
        done = await box.exec(command, user=user)
        if not done.ok:
            raise InfraError(f"could not place artifacts: {done.output[-200:]}")
    await box.unpack(exported.tar, path="/", user="agent")
