"""Copies of Python packages that lie about on the host, where a box would see them.

Every box sees the host's ``/usr``, and programs there bundle packages of their own, far from where
Python looks. They are found by one walk a machine, kept in the cache until ``/usr`` changes.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path

from m2gym.tasksets.registry.cache import Cache, key_of

TOPS = ("/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/local", "/usr/share", "/usr/src")
_FORMAT = 2
_STDLIB = "python3."


def copies(cache: Cache, names: Iterable[str]) -> list[Path]:
    """Folders (packages) and files (modules) of the host below ``/usr`` with one of ``names``."""
    found = _index(str(cache.root))
    wanted = {name.removesuffix(".py") for name in names}
    return [Path(path) for name in sorted(wanted) for path in found.get(name, [])]


@functools.cache
def _index(root: str) -> dict[str, list[str]]:
    tops = [top for top in TOPS if Path(top).is_dir() and not Path(top).is_symlink()]
    stamps = [(top, Path(top).stat().st_mtime_ns) for top in tops]

    def build(folder: Path) -> None:
        text = json.dumps(scan(tops))
        (folder / "packages.json").write_text(text, encoding="utf-8", errors="surrogateescape")

    folder = Cache(root).folder("host", key_of("host", _FORMAT, stamps), build)
    text = (folder / "packages.json").read_text(encoding="utf-8", errors="surrogateescape")
    index: dict[str, list[str]] = json.loads(text)
    return index


def scan(tops: Iterable[str]) -> dict[str, list[str]]:
    """Name → paths of every package, and of every module outside of packages or vendored in one.

    Links are not followed. The standard library's own top folder is left out: a box needs it.
    """
    found: dict[str, list[str]] = {}
    for top in tops:
        for folder, folders, files in os.walk(top):
            name = folder.rpartition("/")[2]
            package = "__init__.py" in files
            if package:
                found.setdefault(name, []).append(folder)
            if name.startswith(_STDLIB):
                folders[:] = [d for d in folders if d in ("dist-packages", "site-packages")]
            elif not package or "vendor" in folder or "third_party" in folder:
                for file in files:
                    if file.endswith(".py") and not Path(folder, file).is_symlink():
                        found.setdefault(file[:-3], []).append(f"{folder}/{file}")
    return found
