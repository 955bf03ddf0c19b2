"""What failing tests demand of a statement: names, exceptions, messages, read from their code."""

from __future__ import annotations

import ast
import builtins
import collections
import datetime
import decimal
import difflib
import io
import itertools
import pathlib
import re
import types
import unittest
import unittest.mock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from m2gym.tasksets.statements.evidence import (
    WORD,
    FailingTests,
    Function,
    identifiers,
    parsed,
    said,
)

_GENERAL = frozenset(
    name
    for kind in (str, bytes, int, float, complex, list, dict, set, tuple, object, type, slice,
                 range, memoryview, OSError, UnicodeDecodeError, SystemExit, StopIteration,
                 ImportError, SyntaxError, re.Pattern, re.Match, types.FunctionType,
                 types.GeneratorType, types.ModuleType, types.CodeType, types.TracebackType,
                 unittest.TestCase, unittest.mock.MagicMock, datetime.datetime,
                 datetime.timedelta, decimal.Decimal, pathlib.Path, io.StringIO, io.BytesIO,
                 io.TextIOWrapper, collections.OrderedDict, collections.Counter,
                 collections.deque)
    for name in dir(kind)
)  # fmt: skip
"""Attributes that objects of the language and its library have, so that no package defines them."""

_FIXTURES = frozenset({"capsys", "capfd", "caplog", "monkeypatch", "tmp_path", "tmpdir", "request",
                       "recwarn", "pytestconfig", "pytester", "testdir", "mocker",
                       "tmp_path_factory", "subtests"})  # fmt: skip
_RAISES = {
    "raises",
    "warns",
    "assertRaises",
    "assertRaisesRegex",
    "assertWarns",
    "assertWarnsRegex",
}
_REGEX = {"assertRaisesRegex", "assertWarnsRegex", "assertRaisesMessage", "assertRaisesRegexp"}
_ERROR_PARTS = {"value", "exception", "message", "msg", "args", "output", "stderr", "err"}
_PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[#0\- +]*\d*(?:\.\d+)?[a-zA-Z]|\{[^{}]*\}")
MIN_MESSAGE_WORDS = 2
"""Shorter strings are values rather than messages; the project's choice."""
SHOWN_PART = 0.75
"""A message is shown where this part of its pairs of words is; the project's choice."""


@dataclass(frozen=True)
class Need:
    """Something that a solver must know: ``what``, demanded at ``place``."""

    kind: str
    what: str
    place: str


class Original:
    """The source that an agent starts from, asked for what it shows. ``files``: path → text."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files

    @cached_property
    def names(self) -> frozenset[str]:
        """Every identifier in the files, in code or prose."""
        return frozenset().union(*(identifiers(text) for text in self.files.values()))

    @cached_property
    def templates(self) -> list[tuple[str, ...]]:
        """Fixed parts of the string literals that have at least two words in them."""
        found = set()
        for text in self.files.values():
            tree = parsed(text)
            for node in ast.walk(tree) if tree else ():
                literal = template(node)
                if literal and len(WORD.findall(literal)) >= MIN_MESSAGE_WORDS:
                    found.add(tuple(_PLACEHOLDER.split(literal)))
        return sorted(found)

    def shows(self, message: str) -> bool:
        """Whether a string literal of the source, its placeholders filled, gives the message.

        Either the literal fits whole and covers most of the message, or all words of the message
        but one a placeholder stand in the literal in this order.
        """
        return any(_gives(parts, message) for parts in self.templates)


def template(node: ast.AST) -> str | None:
    """A string literal's text with ``{}`` where an f-string puts values; ``None`` for the rest."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
        return "".join(map(str, parts))
    return None


def _gives(parts: tuple[str, ...], message: str) -> bool:
    words = WORD.findall(message)
    whole = re.search(".*?".join(map(re.escape, parts)), message, re.DOTALL)
    if whole and len(WORD.findall(whole[0])) >= SHOWN_PART * len(words):
        return True
    fixed = WORD.findall(" ".join(parts))
    if len(words) - len(parts) + 1 > len(set(words) & set(fixed)):
        return False
    blocks = difflib.SequenceMatcher(None, fixed, words, False).get_matching_blocks()
    same = sum(block.size for block in blocks)
    return same >= max(MIN_MESSAGE_WORDS, len(words) - len(parts) + 1)


def mentions(text: str, message: str) -> bool:
    """Whether a text holds a message, or nearly all of it."""
    if " ".join(message.split()).casefold() in " ".join(text.split()).casefold():
        return True
    pairs, there = _pairs(message), _pairs(text)
    return bool(pairs) and len(pairs & there) >= SHOWN_PART * len(pairs)


def _pairs(text: str) -> set[tuple[str, str]]:
    words = [word.casefold() for word in re.findall(r"\w+", text)]
    return set(itertools.pairwise(words))


def needs(tests: FailingTests) -> Iterator[Need]:
    """What the failing tests use and demand, each once, with the test that does."""
    seen: set[tuple[str, str]] = set()
    for place, nodes in tests.functions.items():
        file = tests.files.get(place.partition("::")[0], "")
        scope = _Scope(nodes, file, tests.packages)
        for kind, what in (*scope.used(), *scope.exceptions(), *scope.messages()):
            if (kind, what) not in seen:
                seen.add((kind, what))
                yield Need(kind, what, place)
    for test, message in tests.messages.items():
        for name in re.findall(r"(?:DID NOT RAISE|DID NOT WARN)\D*?'?(\w+)'?>", said(message)):
            yield Need("raised", name, test)
        for name in re.findall(r"(\w+) not raised", said(message)):
            yield Need("raised", name, test)


class _Scope:
    """The code of one test, with what its names come from."""

    def __init__(self, nodes: Sequence[ast.AST], file: str, packages: Sequence[str]) -> None:
        self.nodes, self.packages = nodes, packages
        tree = parsed(file)
        everything = list(ast.walk(tree)) if tree else []
        self.own = {n.name for n in everything if isinstance(n, Function | ast.ClassDef)}
        self.own |= {n.arg for n in everything if isinstance(n, ast.arg)}
        for n in everything:
            if isinstance(n, ast.Attribute | ast.Name) and isinstance(n.ctx, ast.Store):
                self.own.add(n.attr if isinstance(n, ast.Attribute) else n.id)
            elif (
                isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value.isidentifier()
            ):
                self.own.add(n.value)
        self.external = {"self", "cls", *_FIXTURES}
        for n in everything:
            if isinstance(n, ast.Import):
                names = [(a.asname or a.name.partition(".")[0], a.name) for a in n.names]
                self.external |= {bound for bound, whole in names if not self._ours(whole)}
            elif isinstance(n, ast.ImportFrom) and not n.level and not self._ours(n.module or ""):
                self.external |= {a.asname or a.name for a in n.names}
        self._spread()

    def _ours(self, module: str) -> bool:
        return module.partition(".")[0] in self.packages

    def _of_package(self, node: ast.ImportFrom) -> bool:
        """Whether names come from the package; ``from . import x`` is from beside the test."""
        return node.level > 1 or (not node.level and self._ours(node.module or ""))

    def _spread(self) -> None:
        """Names that hold what foreign code gave are foreign too."""
        for node in [n for top in self.nodes for n in ast.walk(top)]:
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                targets, value = [node.optional_vars], node.context_expr
            elif isinstance(node, ast.For):
                targets, value = [node.target], node.iter
            if targets and self._foreign(value):
                self.external |= {
                    n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)
                }

    def _foreign(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute | ast.Call | ast.Subscript | ast.Await):
            node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name):
            return node.id in self.external or hasattr(builtins, node.id)
        return isinstance(node, ast.Constant | ast.JoinedStr | ast.List | ast.Dict | ast.Tuple)

    def _walk(self) -> Iterator[ast.AST]:
        for top in self.nodes:
            yield from ast.walk(top)

    def used(self) -> Iterator[tuple[str, str]]:
        """Names that the code takes from the package under test."""
        for node in self._walk():
            if isinstance(node, ast.ImportFrom) and self._of_package(node):
                yield from (("name", alias.name) for alias in node.names if alias.name != "*")
            elif isinstance(node, ast.Attribute):
                known = node.attr in self.own or node.attr in _GENERAL or self._foreign(node.value)
                if not known:
                    yield "name", node.attr
            elif isinstance(node, ast.Call) and not self._foreign(node.func):
                local = isinstance(node.func, ast.Name) and node.func.id in self.own
                for argument in node.keywords:
                    if argument.arg and not local:
                        yield "argument", argument.arg

    def exceptions(self) -> Iterator[tuple[str, str]]:
        """Exceptions and warnings that the code demands."""
        for call in self._walk():
            if isinstance(call, ast.Call) and _called(call) in _RAISES and call.args:
                kinds = call.args[0]
                for kind in kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]:
                    name = getattr(kind, "attr", getattr(kind, "id", ""))
                    if name and name not in self.own:
                        yield "exception", name

    def messages(self) -> Iterator[tuple[str, str]]:
        """Strings that errors, warnings and error output are compared with."""
        for node in self._walk():
            for literal in self._compared(node):
                text = template(literal)
                if text is not None and len(WORD.findall(text)) >= MIN_MESSAGE_WORDS:
                    yield "message", text.replace("{}", " ")

    def _compared(self, node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(_is_error, sides)):
                yield from (s for s in sides if template(s) is not None)
        elif isinstance(node, ast.Call):
            name = _called(node)
            if name in _RAISES:
                for argument in node.keywords:
                    if argument.arg == "match":
                        yield _plain(argument.value)
            if name in _REGEX and len(node.args) > 1:
                yield _plain(node.args[1])
            if name.startswith("assert") and any(map(_is_error, node.args)):
                yield from (a for a in node.args if template(a) is not None)


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def _is_error(node: ast.AST) -> bool:
    """Whether an expression is the text of an error: ``str(e)``, ``e.value``, ``result.stderr``."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and inner.attr in _ERROR_PARTS:
            return True
        if isinstance(inner, ast.Call) and _called(inner) in ("str", "repr") and inner.args:
            argument = inner.args[0]
            name = str(getattr(argument, "id", getattr(argument, "attr", "")))
            if re.match(r"(e|ex|exc|err|error|exception|warning|w|cm|value)\w{0,5}$", name):
                return True
    return False


def _plain(node: ast.AST) -> ast.AST:
    """A regular expression as the text it stands for, as far as its literal parts go."""
    if isinstance(node, ast.Call) and _called(node) == "escape" and node.args:
        return node.args[0]
    text = template(node)
    if text is None:
        return node
    bare = re.sub(r"\\([^\w\s])", r"\1", re.sub(r"\.[*+]\??|\\[wdsWDSbB][*+]?|[\^$]", " ", text))
    return ast.Constant(bare)
