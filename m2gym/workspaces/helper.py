"""The supervisor of a box as a program: compiled C where there is a compiler, else Python.

The C program, ``native/``, is compiled once into
``$XDG_CACHE_HOME/m2gym/supervisor-<hash of the sources>``.
``M2GYM_SUPERVISOR=python`` asks for the slower one (7 MB a box instead of 1).
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

INSIDE = "/run/m2gym"
"""Where the supervisor lies in a box."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Helper:
    """How to run the supervisor: on the host, in the box, and what must be shown there."""

    host: tuple[str, ...]
    box: tuple[str, ...]
    mounts: tuple[tuple[str, str], ...]
    language: str


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/m2gym``, by default ``~/.cache/m2gym``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "m2gym"


@functools.cache
def helper() -> Helper:
    """The best supervisor for this machine, made on first use."""
    if os.environ.get("M2GYM_SUPERVISOR", "c") != "python":
        program = compiled()
        if program is not None:
            inside = f"{INSIDE}/supervisor"
            return Helper((str(program),), (inside,), ((str(program), inside),), "c")
    return python_helper()


def compiler() -> str | None:
    """The C compiler, ``$CC`` or the first of cc, gcc and clang on PATH."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((path for name in names if (path := shutil.which(name))), None)


def compiled() -> Path | None:
    """The compiled supervisor; ``None`` without a compiler that works."""
    sources = sorted((_HERE / "native").glob("*.[ch]"))
    text = b"".join(path.read_bytes() for path in sources) + platform.machine().encode()
    target = cache_folder() / f"supervisor-{hashlib.sha256(text).hexdigest()[:16]}"
    if os.access(target, os.X_OK):
        return target
    program = compiler()
    if program is None:
        return None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / "supervisor"
            for flags in (["-static"], []):
                parts = [str(path) for path in sources if path.suffix == ".c"]
                command = [program, "-O2", *flags, "-o", str(made), *parts]
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    made.chmod(0o755)
                    made.replace(target)
                    return target
    except OSError:
        return None
    return None


def python_helper() -> Helper:
    """The supervisor in Python: the system's interpreter, else this one shown in the box."""
    script, inside = str(_HERE / "supervisor.py"), f"{INSIDE}/supervisor.py"
    flags = ("-I", "-S", "-B")
    system = "/usr/bin/python3"
    if os.access(system, os.X_OK):
        return Helper(
            (system, *flags, script), (system, *flags, inside), ((script, inside),), "python"
        )
    home, shown = Path(sys.base_prefix), f"{INSIDE}/python"
    own = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    within = f"{shown}/{own.relative_to(home)}"
    mounts = ((script, inside), (str(home), shown))
    return Helper((str(own), *flags, script), (within, *flags, inside), mounts, "python")
