"""Which verl this backend is written for, and whether it is here. Imports neither verl nor Ray."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from m2gym.core.errors import InputError

VERSION = "0.9.1"
"""verl renames what we register with in each minor release, so one version is asked for."""

MEND = "scripts/setup-verl, then use .venv-verl/bin/m2gym"

MODULES = {
    "ray": "ray",
    "transfer_queue": "TransferQueue",
    "tensordict": "tensordict",
    "hydra": "hydra-core",
    "torchdata": "torchdata",
    "codetiming": "codetiming",
    "zmq": "pyzmq",
    "msgspec": "msgspec",
    "torch": "torch",
    "transformers": "transformers",
}
"""Modules that verl's trainer imports, by the package that brings them."""


@dataclass(frozen=True)
class Lack:
    """Something that is missing or of a wrong version, and the command that mends it."""

    what: str
    mend: str


def lacks() -> Iterator[Lack]:
    """What keeps this backend from running; nothing where it runs."""
    if importlib.util.find_spec("verl") is None:
        yield Lack(f"verl is not installed, {VERSION} is needed", MEND)
    elif (found := importlib.metadata.version("verl")) != VERSION:
        how = f"{sys.executable} -m pip install --no-deps verl=={VERSION}"
        yield Lack(f"verl {found} is installed, this backend is written for {VERSION}", how)
    missing = [package for name, package in MODULES.items() if not _here(name)]
    if missing:
        how = f"{sys.executable} -m pip install 'm2gym[train,verl]'"
        yield Lack(f"verl needs {', '.join(missing)}", how)


def require_verl() -> None:
    """Raise `InputError` with every lack and its mend."""
    found = list(lacks())
    if found:
        raise InputError("; ".join(f"{lack.what}; run: {lack.mend}" for lack in found))


def _here(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
