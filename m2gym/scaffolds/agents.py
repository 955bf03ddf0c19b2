"""From the text after ``--agent`` to a scaffold, and from a scaffold to what a run records."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.protocols import Scaffold
from m2gym.core.registry import SCAFFOLDS


def parse_agent(text: str) -> Scaffold:
    """A scaffold from ``id``, ``id:argument`` or ``module:Class``.

    The argument goes to the class's ``from_argument``. A ``module`` is looked for in the current
    folder too.

    Raises:
        UnknownIdError: no such scaffold; it names the nearest.
        InputError: the scaffold takes no argument, or refuses what it was given.
    """
    name, colon, argument = text.partition(":")
    if name not in SCAFFOLDS and colon and argument.isidentifier():
        kind, colon, argument = _imported(name, argument), "", ""
    else:
        kind = SCAFFOLDS.get(name)
    if not callable(kind):
        raise InputError(f"agent {text!r} is a {type(kind).__name__}, not a scaffold class")
    if not callable(getattr(kind, "run", None)) and not hasattr(kind, "from_argument"):
        raise InputError(
            f"agent {text!r} is no scaffold: expected a class with a `name` and "
            f"`async def run(self, episode)`, got {kind!r}"
        )
    if not colon:
        try:
            inspect.signature(kind).bind()
        except TypeError as error:
            raise InputError(f"agent {text!r} needs an argument, {name}:…: {error}") from None
        scaffold = kind()
    elif hasattr(kind, "from_argument"):
        scaffold = kind.from_argument(argument)
    else:
        raise InputError(f"agent {name!r} takes no argument, got {argument!r}")
    return check_scaffold(scaffold)


def make_scaffold(id: str, settings: Mapping[str, Any]) -> Scaffold:
    """The scaffold of that id with its settings, as a configuration has them.

    Raises:
        UnknownIdError: no such scaffold, or a setting that it lacks; it names the nearest.
        InputError: a setting is missing, or refused by the scaffold.
    """
    kind = SCAFFOLDS.get(id)
    try:
        return check_scaffold(kind(**settings))
    except TypeError as error:
        known = inspect.signature(kind).parameters
        for name in settings:
            if name not in known:
                raise UnknownIdError(f"setting of agent {id}", name, known) from error
        raise InputError(f"agent {id!r}: {error}") from error


def check_scaffold(value: Any) -> Scaffold:
    """``value`` as a scaffold, or `InputError` that says what it lacks."""
    if isinstance(value, Scaffold) and inspect.iscoroutinefunction(value.run):
        return value
    raise InputError(
        f"an agent is an id such as 'gold' or an object with a `name` and `async run(episode)`, "
        f"got {value!r}"
    )


def describe(scaffold: Scaffold) -> dict[str, Any]:
    """The name and settings that make two runs comparable; goes into ``run.json``."""
    settings: dict[str, Any] = {}
    if callable(own := getattr(scaffold, "settings", None)):
        settings = own()
    elif dataclasses.is_dataclass(scaffold) and not isinstance(scaffold, type):
        settings = dataclasses.asdict(scaffold)
    elif hasattr(scaffold, "model_dump"):
        settings = scaffold.model_dump(mode="json")
    settings.pop("name", None)
    kind = type(scaffold)
    described = {
        "name": scaffold.name,
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "settings": json.loads(json.dumps(settings, default=str)),
    }
    if callable(hashed := getattr(scaffold, "content_hash", None)):
        described["hash"] = hashed()
    return described


def _imported(module: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not module.startswith(error.name):
            raise
        if "." in module:
            raise InputError(f"agent '{module}:{name}': there is no module {module!r}") from None
        return SCAFFOLDS.get(module)
    try:
        return getattr(found, name)
    except AttributeError:
        raise InputError(f"module {module!r} has no {name!r}") from None
