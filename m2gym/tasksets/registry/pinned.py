"""Pinned files that the boxes of tasks need: pytest, and what the tests of some task import."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from importlib.resources import files

from m2gym.core.errors import UnknownIdError
from m2gym.tasksets.registry.fetch import RegistryFile

PYTEST = ("pytest", "pluggy", "iniconfig", "packaging")
"""Pinned names every task needs to run its tests."""

_TABLE = files("m2gym.tasksets") / "data" / "swe_repo" / "requires.json"


@functools.cache
def pinned() -> dict[str, RegistryFile]:
    """Name → pinned file of everything the tests of some task import."""
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    return {name: RegistryFile.model_validate(entry) for name, entry in table.items()}


def required_files(requires: Iterable[str | RegistryFile]) -> list[RegistryFile]:
    """What a task's box needs to run its tests: pytest, and files by pinned name or themselves.

    Raises:
        UnknownIdError: no pinned file has that name.
    """
    table = pinned()
    found: dict[str, RegistryFile] = {}
    for want in (*PYTEST, *requires):
        if isinstance(want, str) and want not in table:
            raise UnknownIdError("pinned test requirement", want, table)
        file = table[want] if isinstance(want, str) else want
        found.setdefault(file.project, file)
    return list(found.values())
