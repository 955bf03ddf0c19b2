"""A seeded mutator: one realistic mistake at one place, the rest of the file untouched.

An operator (`operators`) lists its *places* in a file, in order; each is a stretch of the source
and what could stand there instead. The change is made in the text, at the syntax node's position,
so comments, layout and line ends elsewhere stay as they are.
"""

from __future__ import annotations

import ast
import codecs
import functools
import random
import re
from collections.abc import Sequence
from itertools import pairwise

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.syntax import parse_python
from m2gym.tasksets.edits.module import Module, Place
from m2gym.tasksets.edits.operators import OPERATORS

_ENCODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_UTF8 = {b"utf-8", b"utf8"}


def functions(source: bytes) -> list[tuple[int, int, int]]:
    """Start and end (bytes) and first line, decorators included, of every function of a file.

    Inner functions come after those around them; empty where a file has no `places`.
    """
    module = _module(source)
    found = []
    for node in module.nodes if module else ():
        if module and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start, end = module.span(node)
            lines = [node.lineno, *(decorator.lineno for decorator in node.decorator_list)]
            found.append((start, end, min(lines)))
    return sorted(found)


def places(source: bytes, name: str) -> list[Place]:
    """All places of an operator in a file, by position; empty unless it is Python in UTF-8.

    Raises:
        UnknownIdError: no such operator.
    """
    if name not in OPERATORS:
        raise UnknownIdError("mutation operator", name, OPERATORS)
    return list(_places(source, name))


@functools.lru_cache(maxsize=256)
def _places(source: bytes, name: str) -> tuple[Place, ...]:
    module = _module(source)
    if module is None:
        return ()
    found = (p for node in module.nodes for p in OPERATORS[name](module, node))
    return tuple(sorted(set(found), key=lambda p: (p.start, p.end, p.choices)))


@functools.lru_cache(maxsize=16)
def _module(source: bytes) -> Module | None:
    try:
        source.decode("utf-8")
        declared = [m[1].lower() for m in map(_ENCODING.match, source.splitlines()[:2]) if m]
        if source.startswith(codecs.BOM_UTF8) or not _UTF8.issuperset(declared):
            return None
        return Module(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def mutate(source: bytes, name: str, place: int, seed: int = 0) -> bytes:
    """``source`` with one mistake; ``seed`` picks among the choices of the place.

    Raises:
        InputError: there is no such place, or what comes out does not parse.
    """
    return mutate_many(source, [(name, place, seed)])


def mutate_many(source: bytes, mistakes: Sequence[tuple[str, int, int]]) -> bytes:
    """``source`` with several mistakes: operator, place and seed of each, places as in ``source``.

    Raises:
        InputError: there is no such place, two of them overlap, or what comes out does not parse.
    """
    changes: list[tuple[int, int, bytes]] = []
    for name, place, seed in mistakes:
        found = places(source, name)
        if place >= len(found):
            raise InputError(f"operator {name!r} has {len(found)} places here, asked for {place}")
        where = found[place]
        changes.append((where.start, where.end, random.Random(seed).choice(where.choices)))
    changes.sort()
    if any(left[1] > right[0] for left, right in pairwise(changes)):
        raise InputError(f"these mistakes overlap: {list(mistakes)}")
    mutated = source
    for start, end, choice in reversed(changes):
        mutated = mutated[:start] + choice + mutated[end:]
    try:
        parse_python(mutated)
    except SyntaxError as error:
        raise InputError(f"{list(mistakes)} break the syntax: {error}") from error
    return mutated
