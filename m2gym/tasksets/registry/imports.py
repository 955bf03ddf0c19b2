"""Which modules the files of a release import, read from their syntax."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from m2gym.core.syntax import parse_python
from m2gym.tasksets.registry.sdist import Layout

MAX_SOURCE = 2 * 2**20
"""Bytes of the longest file that is looked at; the project's choice."""


def tree_of(path: Path) -> ast.Module | None:
    """The syntax of a file; `None` when it is too long or is not Python in an encoding we know."""
    try:
        if path.stat().st_size > MAX_SOURCE:
            return None
        return parse_python(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return None


def imported(root: Path, paths: Iterable[str], where: Layout) -> Iterator[str]:
    """Top-level modules that the package and its tests always import and that are not their own.

    What is imported inside a function or a ``try`` is taken as not demanded.
    """
    listed = list(paths)
    local = {Path(p).stem for p in listed} | {part for p in listed for part in Path(p).parts[:-1]}
    for path in listed:
        if where.is_test(path) or where.is_source(path):
            tree = tree_of(root / path)
            for module in _modules(tree.body if tree else ()):
                if module not in local and module not in sys.stdlib_module_names:
                    yield module


def _modules(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
