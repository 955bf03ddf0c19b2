"""What a task's box sees beside its own files: an interpreter, pytest and the tests' needs.

Pinned wheels are unpacked (never installed) into one read-only folder, shared by every task that
needs the same ones. Python packages of the host are masked by an empty folder, so that neither
they, nor m2gym's own environment, show the agent another release of the package it works on.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from m2gym.core.errors import InfraError
from m2gym.core.task import Mount
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent
from m2gym.tasksets.registry.fetch import RegistryFile, fetch
from m2gym.tasksets.registry.host import copies
from m2gym.tasksets.registry.sdist import unpack

WORKDIR = "/workspace"
"""Where a task's own files lie in its box."""

TARGET = "/opt/m2gym/site"
PYTHON = "/opt/m2gym/python"
"""Where the interpreter's folder lies in the box when it lies outside ``/usr`` on the host."""
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_FORMAT = 2


def interpreter() -> Path:
    """The interpreter below any virtual environment, links resolved."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def boxed(path: Path) -> str:
    """Where a path of the interpreter's installation lies in the box."""
    prefix = Path(sys.base_prefix).resolve()
    if prefix.is_relative_to("/usr") or not path.is_relative_to(prefix):
        return str(path)
    return f"{PYTHON}/{path.relative_to(prefix)}"


def site_folder(files: Sequence[RegistryFile], cache: Cache, progress: Progress = silent) -> Path:
    """A folder with the packages of ``files`` and ``bin/`` with python, python3 and pytest."""
    python = interpreter()

    def build(folder: Path) -> None:
        archives = fetch(files, cache, progress)
        for name, archive in archives.items():
            if name.endswith(".whl"):
                unpack(archive, name, folder)
            else:
                _unpack_source(archive, name, folder, cache)
        _compile(python, folder)
        (folder / "bin").mkdir(exist_ok=True)
        for link in ("python", "python3"):
            (folder / "bin" / link).symlink_to(boxed(python))
        pytest = folder / "bin" / "pytest"
        pytest.write_text('#!/bin/sh\nexec python3 -m pytest "$@"\n', encoding="utf-8")
        pytest.chmod(0o755)

    key = key_of("site", _FORMAT, sorted(f.sha256 for f in files), str(python), sys.version)
    return cache.folder("site", key, build)


def _unpack_source(archive: Path, name: str, folder: Path, cache: Cache) -> None:
    """The pure Python packages of a source archive (its compiled parts are left out)."""
    with cache.scratch() as scratch:
        unpack(archive, name, scratch)
        base = next((scratch / d for d in ("src", "lib") if (scratch / d).is_dir()), scratch)
        for entry in base.iterdir():
            if (entry / "__init__.py").exists() or (entry.suffix == ".py" and base != scratch):
                entry.rename(folder / entry.name)


def _compile(python: Path, folder: Path) -> None:
    """Byte-compile by content (unchecked): each start of pytest saves about 0.3 s."""
    arguments = ["-m", "compileall", "-q", "-s", str(folder), "-p", TARGET]
    arguments += ["--invalidation-mode", "unchecked-hash", str(folder)]
    try:
        subprocess.run([str(python), "-I", *arguments], check=False, capture_output=True)
    except OSError as error:
        raise InfraError(f"the interpreter {python} cannot be run: {error}") from error


def interpreter_mounts() -> tuple[Mount, ...]:
    """The interpreter's folder, where it lies outside ``/usr`` (which every box sees)."""
    prefix = Path(sys.base_prefix).resolve()
    return () if prefix.is_relative_to("/usr") else (Mount(source=prefix, target=PYTHON),)


def python_mounts(cache: Cache, names: Iterable[str]) -> tuple[Mount, ...]:
    """The interpreter, and nothing where the host has packages, or copies of ``names``."""

    def build(folder: Path) -> None:
        (folder / "folder").mkdir()
        (folder / "file").touch()

    empty = cache.folder("site", key_of("nothing"), build)
    masked = host_packages()
    found = copies(cache, names)
    covers = {*masked, *found}
    below = [p for p in found if not any(parent in covers for parent in p.parents)]
    masks = (
        Mount(source=empty / ("folder" if path.is_dir() else "file"), target=boxed(path))
        for path in (*masked, *below)
        if path.exists()
    )
    return (*interpreter_mounts(), *masks)


@functools.cache
def host_packages() -> tuple[Path, ...]:
    """Folders of installed Python packages that a box would otherwise see."""
    libraries = {Path("/usr/lib"), Path("/usr/local/lib"), Path(sys.base_prefix).resolve() / "lib"}
    found = {
        path
        for library in libraries
        for pattern in ("python3*/dist-packages", "python3*/site-packages")
        for path in library.glob(pattern)
        if path.is_dir() and path.resolve() == path
    }
    return tuple(sorted(found))


def box_environment(python_path: Sequence[str]) -> dict[str, str]:
    """Variables of the box; ``python_path`` comes before the site folder."""
    shared = sysconfig.get_config_var("Py_ENABLE_SHARED") and boxed(interpreter()).startswith(
        PYTHON
    )
    return {
        **({"LD_LIBRARY_PATH": f"{PYTHON}/lib"} if shared else {}),
        "PATH": f"{TARGET}/bin:{SYSTEM_PATH}",
        "PYTHONPATH": ":".join([*python_path, TARGET]),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
