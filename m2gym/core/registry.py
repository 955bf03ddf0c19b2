"""One registry a kind: by decorator, by call, or by another package's entry points.

A value may be an import string ``"package.module:name"``, resolved when it is first asked for, so
that registering costs no import.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from m2gym.core.errors import InputError, UnknownIdError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, and those that installed packages offer in ``group``."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._values: dict[str, T | str] = {}

    def register(self, name: str, value: T | str) -> None:
        """Add or replace ``name``."""
        if not name or any(c.isspace() for c in name):
            raise InputError(f"a {self.kind} id is one word without spaces, got {name!r}")
        self._values[name] = value

    def decorator(self, name: str) -> Callable[[T], T]:
        """Register what follows the decorator, unchanged."""

        def add(value: T) -> T:
            self.register(name, value)
            return value

        return add

    def get(self, name: str) -> T:
        """The value; `UnknownIdError` names the nearest known ids."""
        if name not in self._values:
            found = self._entry_points().get(name)
            if found is None:
                raise UnknownIdError(self.kind, name, self.names())
            loaded: T = found.load()
            return self._values.setdefault(name, loaded)  # type: ignore[return-value]
        value = self._values[name]
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            resolved: Any = importlib.import_module(module)
            for part in attribute.split("."):
                resolved = getattr(resolved, part)
            self._values[name] = value = resolved
        return value

    def names(self) -> list[str]:
        """All ids, entry points included, sorted."""
        return sorted({*self._values, *self._entry_points()})

    def __contains__(self, name: str) -> bool:
        return name in self._values or name in self._entry_points()

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {point.name: point for point in importlib.metadata.entry_points(group=self.group)}


ENVS: Registry[Any] = Registry("environment", "m2gym.envs")
REWARDS: Registry[Any] = Registry("reward", "m2gym.rewards")
SCAFFOLDS: Registry[Any] = Registry("scaffold", "m2gym.scaffolds")
BACKENDS: Registry[Any] = Registry("backend", "m2gym.backends")
WORKSPACES: Registry[Any] = Registry("workspace", "m2gym.workspaces")
TASKSETS: Registry[Any] = Registry("taskset", "m2gym.tasksets")
