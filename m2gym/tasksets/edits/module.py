"""A source file by its syntax: where its nodes stand in the text, and what could stand there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from m2gym.core.syntax import parse_python


@dataclass(frozen=True)
class Place:
    """Bytes ``start:end`` of a file, and what could stand there instead (at least one)."""

    start: int
    end: int
    choices: tuple[bytes, ...]
    scope: str
    """Dotted name of the enclosing classes and functions, empty at the module's level."""


class Module:
    """A parsed source file that knows the byte offsets and the scope of its nodes."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.tree = parse_python(source)
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self.nodes = list(ast.walk(self.tree))
        self._locals: dict[ast.AST, list[tuple[str, int]]] = {}
        self.parents: dict[ast.AST, ast.AST] = {
            child: node for node in self.nodes for child in ast.iter_child_nodes(node)
        }

    def span(self, node: ast.expr | ast.stmt | ast.arg | ast.excepthandler) -> tuple[int, int]:
        """Byte offsets of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        """The source of a node."""
        start, end = self.span(node)
        return self.source[start:end]

    def function(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """The innermost function around a node."""
        while (node := self.parents.get(node, self.tree)) is not self.tree:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                return node
        return None

    def locals(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, int]]:
        """Parameters (line 0) and names stored in a function, with the line, in order."""
        if function not in self._locals:
            a = function.args
            names = [(arg.arg, 0) for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            names += [
                (n.id, n.lineno)
                for n in ast.walk(function)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            ]
            self._locals[function] = names
        return self._locals[function]

    def scope(self, node: ast.AST) -> str:
        """Dotted name of the classes and functions around a node."""
        names: list[str] = []
        here: ast.AST | None = node
        while (here := self.parents.get(here)) if here is not None else None:
            if isinstance(here, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(here.name)
        return ".".join(reversed(names))

    def place(self, node: ast.AST, start: int, end: int, *choices: bytes) -> Iterator[Place]:
        """The place, if some choice changes the text."""
        old = self.source[start:end]
        kept = tuple(dict.fromkeys(choice for choice in choices if choice != old))
        if kept:
            yield Place(start, end, kept, self.scope(node))
