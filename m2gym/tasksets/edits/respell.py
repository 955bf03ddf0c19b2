"""Tables, patterns and constants outside of functions, written in another way.

A text is put together from two, a dictionary, list, set or tuple is made by its constructor.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

_Assigned = ast.Assign | ast.AnnAssign | ast.AugAssign


def tables(tree: ast.Module, lines: set[int]) -> Iterator[_Assigned]:
    """The assignments outside of functions that hold one of the lines, alone on theirs."""
    blocks: list[list[ast.stmt]] = [tree.body]
    while blocks:
        block = blocks.pop()
        for number, node in enumerate(block):
            assert node.end_lineno is not None
            if isinstance(node, _Assigned):
                around = (*block[max(number - 1, 0) : number], *block[number + 1 : number + 2])
                alone = all(
                    other.lineno > node.end_lineno or (other.end_lineno or 0) < node.lineno
                    for other in around
                )
                if alone and any(node.lineno <= line <= node.end_lineno for line in lines):
                    yield node
            elif isinstance(node, ast.ClassDef | ast.If | ast.Try | ast.With):
                blocks.append(node.body)
                blocks += [x for x in (getattr(node, f, None) for f in ("orelse",)) if x]
                blocks += [handler.body for handler in getattr(node, "handlers", ())]


def respelled(statement: _Assigned, tree: ast.Module) -> ast.stmt | None:
    """The assignment of the same value written in another way; `None` where there is none."""
    if statement.value is None:
        return None
    nodes = list(ast.walk(tree))
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.alias)
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored |= {getattr(n, "asname", None) or n.name for n in nodes if isinstance(n, named)}
    before = ast.dump(statement)
    statement.value = _made(_Cut().visit(statement.value), stored)
    return statement if ast.dump(statement) != before else None


class _Cut(ast.NodeTransformer):
    """Texts and bytes are put together from two halves."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, str | bytes) or len(node.value) < 2:
            return node
        middle = len(node.value) // 2
        halves = ast.Constant(node.value[:middle]), ast.Constant(node.value[middle:])
        return ast.BinOp(halves[0], ast.Add(), halves[1])

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node


def _made(value: ast.expr, stored: set[str]) -> ast.expr:
    """A display made by its constructor."""
    inner: ast.expr
    if isinstance(value, ast.Dict) and value.keys and None not in value.keys:
        pairs = zip(value.keys, value.values, strict=True)
        inner = ast.List([ast.Tuple([k, v], ast.Load()) for k, v in pairs if k], ast.Load())
        name = "dict"
    elif isinstance(value, ast.List) and value.elts:
        inner, name = ast.Tuple(value.elts, ast.Load()), "list"
    elif isinstance(value, ast.Tuple) and value.elts:
        inner, name = ast.List(value.elts, ast.Load()), "tuple"
    elif isinstance(value, ast.Set):
        inner, name = ast.Tuple(value.elts, ast.Load()), "set"
    else:
        return value
    if name in stored:
        return value
    return ast.Call(ast.Name(name, ast.Load()), [inner], [])
