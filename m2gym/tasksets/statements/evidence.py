"""What a statement is checked against: the change that mends a task, and the tests that fail.

Both are read as text and syntax; nothing of them runs.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from m2gym.core.syntax import parse_python

WORD = re.compile(r"[A-Za-z_]\w*")
_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@ ?(.*)")
_DEFINITION = re.compile(r"\b(?:def|class)\s+(\w+)")
Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Scoped = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def identifiers(text: str) -> set[str]:
    """Words that could be names in Python, keywords left out."""
    return {word for word in WORD.findall(text) if not keyword.iskeyword(word)}


def parsed(text: str) -> ast.Module | None:
    """The syntax tree, or ``None`` for what this Python cannot parse."""
    try:
        return parse_python(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class Fix:
    """A change of source: the lines it removes and adds, the definitions around them, its files."""

    removed: tuple[str, ...]
    added: tuple[str, ...]
    scopes: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    @classmethod
    def of_diff(cls, diff: str) -> Fix:
        """From a unified diff; definitions are read from its hunk headers and context."""
        removed, added, paths = [], [], dict[str, None]()
        scopes: set[str] = set()
        inside = False
        for line in diff.splitlines():
            if line.startswith(("diff ", "index ")):
                inside = False
            elif not inside and line.startswith(("--- ", "+++ ")):
                path = re.sub(r"^[ab]/", "", line[4:].split("\t")[0].strip())
                if path != "/dev/null":
                    paths[path] = None
            elif match := _HUNK.match(line):
                inside = True
                scopes |= set(_DEFINITION.findall(match[1]))
            elif inside and line.startswith("-"):
                removed.append(line[1:])
            elif inside and line.startswith("+"):
                added.append(line[1:])
        return cls(tuple(removed), tuple(added), frozenset(scopes), tuple(paths))

    @classmethod
    def of_files(cls, before: Mapping[str, str], after: Mapping[str, str]) -> Fix:
        """From the texts of the changed files; a path absent on one side is added or deleted."""
        removed: list[str] = []
        added: list[str] = []
        scopes: set[str] = set()
        paths = []
        for path in sorted({*before, *after}):
            old, new = before.get(path, ""), after.get(path, "")
            if old == new:
                continue
            paths.append(path)
            a, b = old.splitlines(), new.splitlines()
            for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, False).get_opcodes():
                if tag != "equal":
                    removed += a[i:j]
                    added += b[k:m]
                    scopes |= _enclosing(old, i + 1, j) | _enclosing(new, k + 1, m)
        return cls(tuple(removed), tuple(added), frozenset(scopes), tuple(paths))

    @cached_property
    def names(self) -> frozenset[str]:
        """Identifiers in the code of the changed lines; comments and strings do not count."""
        return frozenset().union(*(identifiers(code(x)) for x in (*self.removed, *self.added)))


def code(line: str) -> str:
    """A line without what stands in its strings and comments."""
    line = re.sub(r"(\"\"\"|''').*?(\1|$)", "''", line)
    line = re.sub(r"(\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')", "''", line)
    return line.partition("#")[0]


def _enclosing(source: str, first: int, last: int) -> set[str]:
    tree = parsed(source)
    if tree is None or last < first:
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, _SCOPES) and node.end_lineno is not None:
            inner = node.lineno <= first and last <= node.end_lineno
            if inner:
                found.add(node.name)
    return found


@dataclass(frozen=True)
class FailingTests:
    """The tests that show a fault: pytest ids, and the text of every test file by path.

    ``messages`` (id → failure report) adds what the failures say; ``packages`` are the importable
    names of the package under test.
    """

    ids: tuple[str, ...]
    files: Mapping[str, str]
    packages: tuple[str, ...] = ()
    messages: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def functions(self) -> dict[str, list[ast.AST]]:
        """``path::name`` of each failing test (parameters left out) → the code it is made of.

        That is the test, its decorators, the helpers, fixtures and module-level names it refers to
        in its file, and the set-up of its class. A test that is not found has none.
        """
        found: dict[str, list[ast.AST]] = {}
        trees: dict[str, _File] = {}
        for test in self.ids:
            path, *parts = test.split("[")[0].split("::")
            name = "::".join([path, *parts])
            if name in found:
                continue
            if path not in trees:
                trees[path] = _File(self.files.get(path, ""))
            found[name] = trees[path].code_of(parts)
        return found

    @cached_property
    def shown(self) -> str:
        """Everything the failing tests show: their code, their ids, what their failures say.

        A test whose code is not found may be made from data: then the data files count too.
        """
        parts = [*self.ids, *map(said, self.messages.values())]
        for name, nodes in self.functions.items():
            path = name.partition("::")[0]
            text = self.files.get(path, "")
            if nodes:
                parts += [ast.get_source_segment(text, node) or "" for node in nodes]
                parts += [_decorators(text, node) for node in nodes]
            elif is_test_file(path):
                parts.append(text)
        if not all(self.functions.values()):
            parts += [t for p, t in self.files.items() if not p.endswith((".py", ".pyi"))]
        return "\n".join(parts)


def said(message: str) -> str:
    """What a failure report says was observed, without the code it went through."""
    lines = [line[1:].strip() for line in message.splitlines() if line.startswith("E ")]
    return "\n".join(lines or message.splitlines()[-1:])


def is_test_file(path: str) -> bool:
    """Whether a file's name or folder says that it holds tests."""
    name = Path(path).name
    return name.startswith("test") or name.endswith(("_test.py", "_tests.py", ".txt", ".rst"))


class _File:
    """One test file: finds a test and what it refers to."""

    def __init__(self, text: str) -> None:
        tree = parsed(text)
        self.body: list[ast.stmt] = tree.body if tree else []
        self.defined: dict[str, ast.stmt] = {}
        for node in self.body:
            for name in _binds(node):
                self.defined[name] = node

    def code_of(self, parts: list[str]) -> list[ast.AST]:
        chain = self._find(parts)
        if not chain:
            return []
        test, around = chain[-1], chain[:-1]
        taken: list[ast.AST] = [test]
        for scope in around:
            taken += [n for n in ast.iter_child_nodes(scope) if _sets_up(n)]
        members = {
            name: node
            for scope in around
            if isinstance(scope, ast.ClassDef)
            for node in scope.body
            for name in _binds(node)
        }
        todo = list(taken)
        known = {**self.defined, **members}
        while todo:
            for name in _referred(todo.pop()):
                node = known.get(name)
                if node is None or node in taken or node in around:
                    continue
                taken.append(node)
                if isinstance(node, Function | ast.Assign | ast.AnnAssign):
                    todo.append(node)
        return taken

    def _find(self, parts: list[str]) -> list[ast.AST]:
        body: Iterable[ast.AST] = self.body
        chain: list[ast.AST] = []
        for part in parts:
            wanted = part.rpartition(".")[2]
            match = [n for n in _flat(body) if isinstance(n, _SCOPES) and n.name == wanted]
            match = match or self._inherited(chain, wanted)
            if not match:
                return []
            chain.append(match[-1])
            body = ast.iter_child_nodes(match[-1])
        return chain

    def _inherited(self, chain: Sequence[ast.AST], wanted: str) -> list[_Scoped]:
        """A member that the last class of a chain has from a base class in this file."""
        todo = [n for n in chain[-1:] if isinstance(n, ast.ClassDef)]
        seen: set[str] = set()
        while todo:
            for base in todo.pop(0).bases:
                name = base.id if isinstance(base, ast.Name) else ""
                node = self.defined.get(name)
                if name in seen or not isinstance(node, ast.ClassDef):
                    continue
                seen.add(name)
                found = [n for n in _flat(node.body) if isinstance(n, _SCOPES) and n.name == wanted]
                if found:
                    return found
                todo.append(node)
        return []


def _flat(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements, those under ``if``, ``try`` and ``with`` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _flat(ast.iter_child_nodes(node))


def _binds(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, _SCOPES):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield (alias.asname or alias.name).partition(".")[0]
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    elif isinstance(node, ast.If | ast.Try | ast.With):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield from _binds(child)


def _referred(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.arg):
            yield inner.arg
        elif isinstance(inner, ast.Attribute) and _is_self(inner.value):
            yield inner.attr


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _sets_up(node: ast.AST) -> bool:
    if isinstance(node, Function):
        return node.name in ("setUp", "setUpClass", "setup_method", "setup", "setup_class")
    return isinstance(node, ast.Assign | ast.AnnAssign | ast.expr)


def _decorators(text: str, node: ast.AST) -> str:
    listed = getattr(node, "decorator_list", [])
    return "\n".join(ast.get_source_segment(text, d) or "" for d in listed)
