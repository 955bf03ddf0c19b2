"""Mistakes in a single expression, for graders to be tried with; never injected into a task.

They are finer than the `operators` and find a place in code that those do not reach: one returned
value, a table, a pattern, a text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from m2gym.core.errors import InputError
from m2gym.core.syntax import parse_python
from m2gym.tasksets.edits.module import Module

_Change = tuple[int, int, bytes]
_LITERAL = re.compile(rb"[rRbBuUfF]{0,2}('''|\"\"\"|'|\")")
_SIGNS: dict[type[ast.operator], tuple[bytes, bytes]] = {
    ast.BitOr: (b"|", b"&"),
    ast.BitAnd: (b"&", b"|"),
    ast.BitXor: (b"^", b"|"),
    ast.LShift: (b"<<", b">>"),
    ast.RShift: (b">>", b"<<"),
    ast.Add: (b"+", b"-"),
    ast.Sub: (b"-", b"+"),
}


def slips(source: bytes, lines: set[int]) -> list[bytes]:
    """The file with one mistake, for each that has a place in these lines; in order.

    Raises:
        InputError: the file is not Python in UTF-8.
    """
    try:
        source.decode("utf-8")
        module = Module(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(f"no mistakes can be made in what does not parse: {error}") from error
    changes = dict.fromkeys(
        change
        for node in module.nodes
        if isinstance(node, ast.expr) and node.lineno in lines and _is_value(module, node)
        for kind in (_a_part, _another_text, _another_name, _another_sign, _no_argument)
        for change in kind(module, node)
    )
    found = []
    for start, end, new in changes:
        text = source[:start] + new + source[end:]
        try:
            parse_python(text)
        except (SyntaxError, ValueError):
            continue
        found.append(text)
    return found


def _is_value(module: Module, node: ast.expr) -> bool:
    """Whether an expression is evaluated: no annotation, no docstring, no piece of an f-string
    (whose positions are not told)."""
    child: ast.AST = node
    while (parent := module.parents.get(child)) is not None:
        if isinstance(parent, ast.JoinedStr):
            return False
        if isinstance(parent, ast.AnnAssign | ast.arg) and child is parent.annotation:
            return False
        if child is getattr(parent, "returns", None):
            return False
        if isinstance(parent, ast.Expr) and isinstance(parent.value, ast.Constant):
            return False
        if isinstance(parent, ast.stmt):
            break
        child = parent
    return not isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)


def _a_part(module: Module, node: ast.expr) -> Iterator[_Change]:
    """A part stands where the whole should."""
    parts: list[ast.expr] = []
    if isinstance(node, ast.Call):
        parts = [a for a in node.args[:1] if not isinstance(a, ast.Starred)]
        if isinstance(node.func, ast.Attribute):
            parts.append(node.func.value)
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.BoolOp):
        parts = list(node.values)
    elif isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, ast.Subscript):
        parts = [node.value]
    elif isinstance(node, ast.Compare | ast.UnaryOp):
        yield (*module.span(node), b"(not " + module.text(node) + b")")
    for part in parts:
        yield (*module.span(node), module.text(part))


def _another_text(module: Module, node: ast.expr) -> Iterator[_Change]:
    """A text or pattern lacks its last letter, or its first; a number is one more."""
    start, end = module.span(node)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield start, end, str(node.value + 1).encode()
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    quote = _LITERAL.match(module.source, start, end)
    if not (is_text or isinstance(node, ast.JoinedStr)) or quote is None:
        return
    body = module.source[quote.end() : end - len(quote[1])]
    if quote[1] in body:
        return
    plain = body.partition(b"{")[0] if isinstance(node, ast.JoinedStr) else body
    letters = [m.start() for m in re.finditer(rb"(?<![\\?])[A-Za-z0-9_]", plain)]
    others = [m.start() for m in re.finditer(rb"(?<!\\)[<>#:,;/=! -]", plain)]
    places = letters or others
    for place in dict.fromkeys((*places[-1:], *places[:1])):
        at = quote.end() + place
        yield at, at + 1, b""


def _another_name(module: Module, node: ast.expr) -> Iterator[_Change]:
    """Another attribute of the same object, one that the file uses elsewhere."""
    if not isinstance(node, ast.Attribute):
        return
    base = ast.dump(node.value)
    others = sorted(
        {
            n.attr
            for n in module.nodes
            if isinstance(n, ast.Attribute) and n.attr != node.attr and ast.dump(n.value) == base
        }
    )
    for name in others[:4]:
        yield (*module.span(node), module.text(node.value) + b"." + name.encode())


def _another_sign(module: Module, node: ast.expr) -> Iterator[_Change]:
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        old, new = _SIGNS[type(node.op)]
        begin, end = module.span(node.left)[1], module.span(node.right)[0]
        start = module.source.find(old, begin, end)
        if start >= 0 and b"#" not in module.source[begin:end]:
            yield start, start + len(old), new


def _no_argument(module: Module, node: ast.expr) -> Iterator[_Change]:
    """`None` is passed on, or looked up."""
    given = node.args if isinstance(node, ast.Call) else []
    if isinstance(node, ast.Subscript):
        given = [node.slice]
    for argument in given:
        if not isinstance(argument, ast.Starred | ast.Constant | ast.Slice | ast.Tuple):
            yield (*module.span(argument), b"None")
