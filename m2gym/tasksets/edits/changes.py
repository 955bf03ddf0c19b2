"""The step between two texts of a file, cut into hunks that can be taken one by one."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection
from dataclasses import dataclass

from m2gym.core.errors import InputError
from m2gym.core.syntax import parse_python


@dataclass(frozen=True)
class Hunk:
    """Lines ``[old_start, old_end)`` become lines ``[new_start, new_end)``, counted from 0."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


def hunks(old: bytes, new: bytes) -> list[Hunk]:
    """The changed runs of lines, in order; what lies between them is equal.

    >>> hunks(b"a\\nb\\nc\\n", b"a\\nB\\nc\\nd\\n")
    [Hunk(old_start=1, old_end=2, new_start=1, new_end=2), \
Hunk(old_start=3, old_end=3, new_start=3, new_end=4)]
    """
    a, b = old.splitlines(keepends=True), new.splitlines(keepends=True)
    codes = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [Hunk(i, j, k, m) for tag, i, j, k, m in codes if tag != "equal"]


def merged(old: bytes, new: bytes, taken: Collection[int]) -> bytes:
    """The old text with the hunks of these indices applied.

    >>> merged(b"a\\nb\\nc\\n", b"a\\nB\\nc\\nd\\n", [1])
    b'a\\nb\\nc\\nd\\n'

    Raises:
        InputError: there is no hunk of an index.
    """
    found = hunks(old, new)
    if wrong := [n for n in taken if not 0 <= n < len(found)]:
        raise InputError(f"the file has {len(found)} hunks, and no hunk {wrong[0]}")
    a, b = old.splitlines(keepends=True), new.splitlines(keepends=True)
    lines: list[bytes] = []
    at = 0
    for number, hunk in enumerate(found):
        lines += a[at : hunk.old_start]
        lines += (
            b[hunk.new_start : hunk.new_end]
            if number in taken
            else a[hunk.old_start : hunk.old_end]
        )
        at = hunk.old_end
    return b"".join(lines + a[at:])


def by_function(old: bytes, new: bytes) -> list[tuple[int, ...]]:
    """Indices of hunks that lie in the same function, class head or run of module level lines.

    The innermost function around a hunk counts; a hunk outside any is a group of its own.
    """
    spans_old, spans_new = _spans(old), _spans(new)
    groups: dict[object, list[int]] = {}
    for number, hunk in enumerate(hunks(old, new)):
        name = _around(spans_new, hunk.new_start, hunk.new_end)
        name = name or _around(spans_old, hunk.old_start, hunk.old_end)
        groups.setdefault(name or number, []).append(number)
    return [tuple(group) for group in groups.values()]


def same_code(old: bytes, new: bytes) -> bool:
    """Whether two texts differ in comments, docstrings, annotations' layout and blanks at most."""
    first, second = _bare(old), _bare(new)
    return first is not None and first == second


def _bare(source: bytes) -> str | None:
    try:
        tree = parse_python(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            body[0].value.value = ""
    return ast.dump(tree)


def _spans(source: bytes) -> list[tuple[int, int, str]]:
    """First and last line (from 0, end exclusive) and qualified name of every function."""
    try:
        tree = parse_python(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    found: list[tuple[int, int, str]] = []

    def walk(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                found.append((first - 1, child.end_lineno or child.lineno, f"{name}.{child.name}"))
            elif isinstance(child, ast.ClassDef):
                walk(child, f"{name}.{child.name}")
            else:
                walk(child, name)

    walk(tree, "")
    return found


def _around(spans: list[tuple[int, int, str]], start: int, end: int) -> str | None:
    return next((name for a, b, name in spans if a <= start < b and end <= b), None)
