"""Rewrites of functions that keep their behaviour: another way to write the same good answer.

A grader that fails one of these judges how code looks, not what it does. Comments are lost and
lines move; everything that a caller can see stays.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator

from m2gym.core.errors import InputError
from m2gym.core.syntax import parse_python

Function = ast.FunctionDef | ast.AsyncFunctionDef

_REFLECTS = {"locals", "vars", "eval", "exec", "dir", "currentframe", "_getframe"}


class _Named(ast.NodeTransformer):
    """A returned value gets a name first."""

    def visit_Return(self, node: ast.Return) -> list[ast.stmt] | ast.Return:
        if node.value is None or isinstance(node.value, ast.Constant | ast.Name):
            return node
        target = ast.Name("outcome_", ast.Store())
        made = ast.Assign([target], node.value, lineno=node.lineno)
        return [made, ast.Return(ast.Name("outcome_", ast.Load()))]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node


class _Turned(ast.NodeTransformer):
    """The two branches of an ``if`` change places."""

    def visit_If(self, node: ast.If) -> ast.If:
        self.generic_visit(node)
        if not node.orelse or (len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)):
            return node
        return ast.If(ast.UnaryOp(ast.Not(), node.test), node.orelse, node.body)


def _named(function: Function) -> Function:
    function.body = [s for old in function.body for s in _flat(_Named().visit(old))]
    return function


def _turned(function: Function) -> Function:
    function.body = [s for old in function.body for s in _flat(_Turned().visit(old))]
    return _prefixed(function)


def _prefixed(function: Function) -> Function:
    """A local that nobody uses, after the docstring."""
    at = 1 if ast.get_docstring(function, clean=False) is not None else 0
    unused = ast.Assign([ast.Name("unused_", ast.Store())], ast.Constant(None), lineno=0)
    function.body.insert(at, unused)
    return function


def _flat(node: ast.stmt | list[ast.stmt]) -> list[ast.stmt]:
    return node if isinstance(node, list) else [node]


REWRITES: dict[str, Callable[[Function], Function]] = {
    "restructured": lambda function: _turned(_named(function)),
}
"""Name → rewrite of one function."""


def rewrite(source: bytes, lines: Iterable[int], name: str) -> bytes | None:
    """``source`` with the functions around these lines rewritten; `None` where there is none.

    Functions that look at their own locals are left alone.

    Raises:
        InputError: what comes out does not parse.
    """
    text = source.decode("utf-8")
    tree = parse_python(source)
    chosen = list(_around(tree, set(lines)))
    if not chosen:
        return None
    rows = text.splitlines(keepends=True)
    for function in sorted(chosen, key=lambda f: f.lineno, reverse=True):
        first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
        assert function.end_lineno is not None
        indent = " " * function.col_offset
        changed = REWRITES[name](function)
        body = ast.unparse(ast.fix_missing_locations(changed))
        rows[first - 1 : function.end_lineno] = [_indented(body, indent) + "\n"]
    result = "".join(rows).encode("utf-8")
    try:
        parse_python(result)
    except SyntaxError as error:
        raise InputError(f"the rewrite {name!r} breaks the syntax: {error}") from error
    return result


def _indented(text: str, indent: str) -> str:
    """Code moved to the right; lines inside of strings stay where they are."""
    if not indent:
        return text
    tree = parse_python(text.encode())
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno is not None
        for line in range(node.lineno + 1, node.end_lineno + 1)
    }
    rows = text.split("\n")
    return "\n".join(
        row if number in inside or not row else indent + row for number, row in enumerate(rows, 1)
    )


def _around(tree: ast.Module, lines: set[int]) -> Iterator[Function]:
    """The outermost functions that hold one of the lines and may be rewritten."""
    body: list[ast.AST] = list(tree.body)
    while body:
        node = body.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            here = any(node.lineno <= line <= node.end_lineno for line in lines)
            if here and not _reflects(node) and not _on_one_line(node):
                yield node
        else:
            body += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]


def _on_one_line(node: Function) -> bool:
    return node.body[0].lineno == node.lineno


def _reflects(node: Function) -> bool:
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return bool(names & _REFLECTS)
