"""``harbor``: a Harbor task folder, or a tree of them, as an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.task import Taskset
from m2gym.envs.catalog import EnvEntry


def taskset(path: str | Path | None = None, **settings: Any) -> Taskset:
    """The tasks below ``path``.

    Raises:
        InputError: no path, or a folder or field cannot be used; the message names it.
    """
    from m2gym.tasksets.harbor.folder import FolderTaskset

    if path is None:
        raise InputError(
            "harbor needs the folder of its tasks: m2gym.make('harbor', path=FOLDER), or the id "
            "harbor:FOLDER for commands"
        )
    return FolderTaskset(path, **settings)


def at(folder: str) -> EnvEntry:
    """The environment ``harbor:FOLDER``."""

    def below(**settings: Any) -> Taskset:
        return taskset(folder, **settings)

    return EnvEntry(f"harbor:{folder}", below, "Harbor tasks below a folder")


ENTRY = EnvEntry("harbor", taskset, "Harbor tasks below a folder (path=FOLDER, or harbor:FOLDER)")
