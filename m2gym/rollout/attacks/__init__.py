"""Known ways to cheat a grader, one small file each; `m2gym validate --attacks` runs them.

A module here (or one of the entry-point group ``m2gym.attacks``) is an attack. Its docstring says
what is tried; it defines at least one of

- ``SCRIPT``: bash, run by the agent in its box, in the work folder;
- ``FILES``: path → text, written by the agent;
- ``PAYLOAD``: Python that is appended to every module of the work folder that is no test.

and, where they apply, ``LOOT = True`` (what it copies into ``loot/`` is compared with the hidden
files) and ``SLOW = True`` (it costs a time-out, and runs only when it is named).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import ModuleType

from m2gym.core.errors import InputError, UnknownIdError

GROUP = "m2gym.attacks"
_OURS = frozenset({"agent", "battery", "sweep"})


@dataclass(frozen=True)
class Attack:
    """One way to cheat: ``about`` is the first line of its docstring."""

    name: str
    about: str
    script: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    payload: str = ""
    loot: bool = False
    slow: bool = False


def attacks(names: list[str] | None = None) -> list[Attack]:
    """The attacks with these names, else all that are not slow, by name.

    Raises:
        UnknownIdError: there is no such attack.
        InputError: a module is no attack.
    """
    modules = {
        info.name: f"{__name__}.{info.name}"
        for info in pkgutil.iter_modules(__path__)
        if info.name not in _OURS and not info.name.startswith("_")
    }
    modules |= {point.name: point.value for point in entry_points(group=GROUP)}
    for name in names or []:
        if name not in modules:
            raise UnknownIdError("attack", name, modules)
    found = [_read(name, importlib.import_module(modules[name])) for name in sorted(modules)]
    return [a for a in found if (a.name in names if names else not a.slow)]


def _read(name: str, module: ModuleType) -> Attack:
    parts = {key: getattr(module, key.upper(), None) for key in ("script", "files", "payload")}
    if not any(parts.values()) or not module.__doc__:
        raise InputError(
            f"the attack {name!r} ({module.__name__}) needs a docstring and one of SCRIPT, FILES "
            "and PAYLOAD"
        )
    return Attack(
        name,
        module.__doc__.strip().splitlines()[0],
        parts["script"] or "",
        parts["files"] or {},
        parts["payload"] or "",
        bool(getattr(module, "LOOT", False)),
        bool(getattr(module, "SLOW", False)),
    )
