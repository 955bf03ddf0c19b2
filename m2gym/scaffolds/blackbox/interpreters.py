"""The Python an agent needs, among those this machine has."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.errors import CapabilityError
from m2gym.tasksets.registry.site import interpreter

_ASK = (
    "import json, sys; print(json.dumps([sys.base_prefix, "
    "getattr(sys, '_base_executable', sys.executable), '.'.join(map(str, sys.version_info[:3]))]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A Python outside any virtual environment; ``version`` is ``major.minor.micro``."""

    path: Path
    prefix: Path
    version: str

    @property
    def in_usr(self) -> bool:
        """Whether every box sees it anyway."""
        return self.prefix.is_relative_to("/usr")


@functools.cache
def find_python(version: str = "") -> Interpreter:
    """An interpreter of ``version`` (such as ``3.12``; empty: the running one).

    Looked for are the running one, PATH, and what uv and pyenv have installed.

    Raises:
        CapabilityError: there is none; the message says how to get one.
    """
    for candidate in _candidates(version):
        found = _ask(candidate)
        if found is not None and f"{found.version}.".startswith(f"{version}." if version else ""):
            return found
    raise CapabilityError(
        f"this agent needs Python {version}, and none was found on PATH, nor by uv or pyenv; "
        f"install one, for example: uv python install {version}"
    )


def _candidates(version: str) -> Iterator[str]:
    yield str(interpreter())
    if not version:
        return
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    if shutil.which("uv"):
        yield from _lines(["uv", "python", "find", "--no-python-downloads", version])
    if shutil.which("pyenv"):
        known = [v for v in _lines(["pyenv", "versions", "--bare"]) if v.startswith(f"{version}.")]
        for name in reversed(known):
            for prefix in _lines(["pyenv", "prefix", name]):
                yield f"{prefix}/bin/python{version}"


def _lines(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _ask(path: str) -> Interpreter | None:
    said = _lines([path, "-I", "-c", _ASK])
    if not said:
        return None
    prefix, executable, version = json.loads(said[-1])
    return Interpreter(Path(executable).resolve(), Path(prefix).resolve(), version)
