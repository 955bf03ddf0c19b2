"""Rewrites of code that keep its behaviour: another way to write the same good answer.

A grader that fails one of these judges how code looks, not what it does. Comments are lost and
lines move; everything that a caller can see stays.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator

from m2gym.core.errors import InputError
from m2gym.core.syntax import parse_python
from m2gym.tasksets.edits.respell import respelled, tables
from m2gym.tasksets.edits.rewrites import Function, branched, looped, negated, renamed, restructured

REWRITES: dict[str, Callable[[Function], Function]] = {
    "restructured": restructured,
    "negated": negated,
    "branched": branched,
    "renamed": renamed,
    "looped": looped,
}
"""Name → rewrite of one function."""
RESPELLED = "respelled"
"""The rewrite of what is assigned outside of functions: tables, patterns, constants."""
KINDS = (*REWRITES, RESPELLED)

_REFLECTS = {"currentframe", "_getframe", "eval", "exec"}
_OF_LOCALS = {"locals", "vars", "dir"}


def rewrite(source: bytes, lines: Iterable[int], name: str) -> bytes | None:
    """``source`` with the code around these lines rewritten; `None` where the kind has no place.

    Functions that look at their own locals are left alone.

    Raises:
        InputError: what comes out does not parse.
    """
    text = source.decode("utf-8")
    tree = parse_python(source)
    found: list[tuple[int, int, str]] = []
    if name == RESPELLED:
        for statement in tables(tree, set(lines)):
            if (made := respelled(statement, tree)) is not None:
                assert statement.end_lineno is not None
                found.append((statement.lineno, statement.end_lineno, _printed(made)))
    else:
        for function in _around(tree, set(lines)):
            before = ast.dump(function)
            first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
            changed = REWRITES[name](function)
            if ast.dump(changed) != before:
                assert function.end_lineno is not None
                found.append((first, function.end_lineno, _printed(changed)))
    if not found:
        return None
    rows = text.splitlines(keepends=True)
    for first, last, body in sorted(found, reverse=True):
        row = rows[first - 1]
        indent = row[: len(row) - len(row.lstrip())]
        rows[first - 1 : last] = [_indented(body, indent) + "\n"]
    result = "".join(rows).encode("utf-8")
    try:
        parse_python(result)
    except SyntaxError as error:
        raise InputError(f"the rewrite {name!r} breaks the syntax: {error}") from error
    return result


def _printed(node: ast.stmt) -> str:
    return ast.unparse(ast.fix_missing_locations(node))


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
            if not any(node.lineno <= line <= node.end_lineno for line in lines):
                continue
            if not _reflects(node) and not _on_one_line(node):
                yield node
                continue
        body += [
            n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.ExceptHandler)
        ]


def _on_one_line(node: Function) -> bool:
    return node.body[0].lineno == node.lineno


def _reflects(node: Function) -> bool:
    """Whether names of locals, or frames, may matter to a function."""
    nodes = list(ast.walk(node))
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    names |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    asked = {
        n.func.id
        for n in nodes
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and not n.args
    }
    return bool(names & _REFLECTS or asked & _OF_LOCALS)
