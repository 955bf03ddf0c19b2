"""Fifteen kinds of realistic mistakes.

An operator looks at one syntax node and yields the places there at which it can make its mistake,
with what would stand there instead.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from m2gym.tasksets.edits.module import Module, Place

Operator = Callable[[Module, ast.AST], Iterator[Place]]
OPERATORS: dict[str, Operator] = {}


def operator(name: str) -> Callable[[Operator], Operator]:
    """Register an operator: it yields the places at one syntax node."""

    def add(function: Operator) -> Operator:
        OPERATORS[name] = function
        return function

    return add


_COMPARISONS: dict[type[ast.cmpop], tuple[bytes, tuple[bytes, ...]]] = {
    ast.Lt: (b"<", (b"<=", b">")),
    ast.LtE: (b"<=", (b"<", b">=")),
    ast.Gt: (b">", (b">=", b"<")),
    ast.GtE: (b">=", (b">", b"<=")),
    ast.Eq: (b"==", (b"!=",)),
    ast.NotEq: (b"!=", (b"==",)),
    ast.Is: (b"is", (b"is not",)),
    ast.IsNot: (b"is not", (b"is",)),
    ast.In: (b"in", (b"not in",)),
    ast.NotIn: (b"not in", (b"in",)),
}


@operator("comparison")
def _comparison(module: Module, node: ast.AST) -> Iterator[Place]:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return
    old, new = _COMPARISONS[type(node.ops[0])]
    begin, end = module.span(node.left)[1], module.span(node.comparators[0])[0]
    start = module.source.find(old, begin, end)
    if start >= 0 and b"#" not in module.source[begin:end]:
        yield from module.place(node, start, start + len(old), *new)


@operator("off-by-one")
def _off_by_one(module: Module, node: ast.AST) -> Iterator[Place]:
    """A small whole number in an index, a comparison, a sum or a call's arguments."""
    if not isinstance(node, ast.Constant) or type(node.value) is not int or node.value > 100:
        return
    parent = module.parents.get(node)
    if isinstance(parent, ast.Compare | ast.BinOp | ast.Subscript | ast.Slice | ast.Call):
        start, end = module.span(node)
        down = (str(node.value - 1).encode(),) if node.value > 0 else ()
        yield from module.place(node, start, end, str(node.value + 1).encode(), *down)


@operator("wrong-variable")
def _wrong_variable(module: Module, node: ast.AST) -> Iterator[Place]:
    """A parameter or local is read in the place of another one of the same function."""
    function = module.function(node)
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load) or function is None:
        return
    if isinstance(module.parents.get(node), ast.Call) and module.parents[node].func is node:  # type: ignore[attr-defined]
        return
    names = [name for name, line in module.locals(function) if line < node.lineno]
    known = [n for n in dict.fromkeys(names) if n not in ("self", "cls", "_")]
    if node.id in known:
        others = [n.encode() for n in known if n != node.id]
        yield from module.place(node, *module.span(node), *others)


@operator("dropped-guard")
def _dropped_guard(module: Module, node: ast.AST) -> Iterator[Place]:
    """An ``if`` that only leaves early is gone."""
    if not isinstance(node, ast.If) or node.orelse or len(node.body) > 2:
        return
    if not isinstance(node.body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
        return
    parent = module.parents[node]
    blocks = [b for b in (getattr(parent, f, None) for f in ("body", "orelse", "finalbody")) if b]
    block = next((b for b in blocks if isinstance(b, list) and node in b), None)
    if block is None or module.source[: module.span(node)[0]].endswith(b"el"):
        return
    start, end = module.span(node)
    if module.source[start : start + 2] != b"if":
        return
    if len(block) == 1:
        yield from module.place(node, start, end, b"pass")
        return
    line = module.source.rfind(b"\n", 0, start) + 1
    stop = module.source.find(b"\n", end) + 1 or len(module.source)
    if not module.source[line:start].strip() and not module.source[end:stop].strip():
        yield from module.place(node, line, stop, b"")


@operator("swapped-arguments")
def _swapped_arguments(module: Module, node: ast.AST) -> Iterator[Place]:
    if not isinstance(node, ast.Call):
        return
    for left, right in zip(node.args, node.args[1:], strict=False):
        if isinstance(left, ast.Starred) or isinstance(right, ast.Starred):
            continue
        start, end = module.span(left)[0], module.span(right)[1]
        between = module.source[module.span(left)[1] : module.span(right)[0]]
        if between.strip() == b",":
            swapped = module.text(right) + between + module.text(left)
            yield from module.place(node, start, end, swapped)


@operator("negated-condition")
def _negated_condition(module: Module, node: ast.AST) -> Iterator[Place]:
    if not isinstance(node, ast.If | ast.IfExp | ast.While):
        return
    test = node.test
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from module.place(node, *module.span(test), module.text(test.operand))
    elif isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        yield from module.place(node, *module.span(test), b"not " + module.text(test))


@operator("wrong-default")
def _wrong_default(module: Module, node: ast.AST) -> Iterator[Place]:
    """A parameter's constant default is another constant of its kind."""
    if not isinstance(node, ast.arguments):
        return
    for default in (*node.defaults, *(d for d in node.kw_defaults if d is not None)):
        if not isinstance(default, ast.Constant):
            continue
        value = default.value
        if isinstance(value, bool):
            choices = [str(not value).encode()]
        elif type(value) is int:
            choices = [str(value + 1).encode(), *([b"0"] if value else [])]
        elif isinstance(value, str) and value:
            choices = [b'""']
        else:
            continue
        yield from module.place(default, *module.span(default), *choices)


@operator("lost-return")
def _lost_return(module: Module, node: ast.AST) -> Iterator[Place]:
    """A value is computed and not returned."""
    if isinstance(node, ast.Return) and node.value is not None:
        if isinstance(node.value, ast.Constant | ast.Name):
            return
        start = module.span(node)[0]
        value = module.span(node.value)[0]
        if module.source[start:value].strip() == b"return":
            yield from module.place(node, start, value, b"")


_EXCEPTIONS = (b"ValueError", b"TypeError", b"KeyError", b"IndexError", b"AttributeError")


@operator("wrong-exception")
def _wrong_exception(module: Module, node: ast.AST) -> Iterator[Place]:
    """Another built-in exception is raised or caught."""
    name: ast.expr | None = None
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        name = node.exc.func
    elif isinstance(node, ast.ExceptHandler):
        name = node.type
    if isinstance(name, ast.Name) and name.id.encode() in _EXCEPTIONS:
        yield from module.place(node, *module.span(name), *_EXCEPTIONS)


@operator("removed-copy")
def _removed_copy(module: Module, node: ast.AST) -> Iterator[Place]:
    """The thing itself is used, not a copy of it."""
    inner: ast.expr | None = None
    if isinstance(node, ast.Call) and not node.keywords:
        f = node.func
        if (
            isinstance(f, ast.Name)
            and f.id in ("list", "dict", "set", "tuple")
            and len(node.args) == 1
        ):
            inner = node.args[0]
        elif isinstance(f, ast.Attribute) and f.attr in ("copy", "deepcopy"):
            inner = node.args[0] if len(node.args) == 1 else (None if node.args else f.value)
    elif (
        isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node.slice) == ":"
    ):
        inner = node.value
    if isinstance(inner, ast.Name | ast.Attribute) and isinstance(node, ast.expr):
        yield from module.place(node, *module.span(node), module.text(inner))


@operator("and-or")
def _and_or(module: Module, node: ast.AST) -> Iterator[Place]:
    if not isinstance(node, ast.BoolOp) or len(node.values) != 2:
        return
    old, new = (b"and", b"or") if isinstance(node.op, ast.And) else (b"or", b"and")
    begin, end = module.span(node.values[0])[1], module.span(node.values[1])[0]
    start = module.source.find(old, begin, end)
    if start >= 0 and b"#" not in module.source[begin:end]:
        yield from module.place(node, start, start + len(old), new)


_ARITHMETIC: dict[type[ast.operator], tuple[bytes, bytes]] = {
    ast.Add: (b"+", b"-"),
    ast.Sub: (b"-", b"+"),
    ast.Mult: (b"*", b"+"),
    ast.FloorDiv: (b"//", b"/"),
    ast.Mod: (b"%", b"//"),
}


@operator("arithmetic")
def _arithmetic(module: Module, node: ast.AST) -> Iterator[Place]:
    """Another arithmetic sign; text that is put together or formatted is left alone."""
    if not isinstance(node, ast.BinOp) or type(node.op) not in _ARITHMETIC:
        return
    if any(isinstance(n, ast.JoinedStr | ast.List | ast.Tuple) for n in (node.left, node.right)):
        return
    for side in (node.left, node.right):
        if isinstance(side, ast.Constant) and not isinstance(side.value, int | float):
            return
    old, new = _ARITHMETIC[type(node.op)]
    begin, end = module.span(node.left)[1], module.span(node.right)[0]
    start = module.source.find(old, begin, end)
    if start >= 0 and b"#" not in module.source[begin:end]:
        yield from module.place(node, start, start + len(old), new)


@operator("lost-statement")
def _lost_statement(module: Module, node: ast.AST) -> Iterator[Place]:
    """A call made for its effect, or a change of an attribute or item, is forgotten."""
    if module.function(node) is None or not isinstance(node, ast.Expr | ast.Assign | ast.AugAssign):
        return
    if isinstance(node, ast.Expr):
        effect = isinstance(node.value, ast.Call)
    else:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        effect = isinstance(target, ast.Attribute | ast.Subscript)
    if effect:
        yield from module.place(node, *module.span(node), b"pass")


@operator("lost-keyword")
def _lost_keyword(module: Module, node: ast.AST) -> Iterator[Place]:
    """The last keyword argument of a call is not passed on."""
    if not isinstance(node, ast.Call) or not node.keywords or node.keywords[-1].arg is None:
        return
    before: list[ast.expr] = [*node.args, *(k.value for k in node.keywords[:-1])]
    start = max((module.span(n)[1] for n in before), default=0)
    end = module.span(node.keywords[-1].value)[1]
    if before and b"#" not in module.source[start:end]:
        yield from module.place(node, start, end, b"")


@operator("break-continue")
def _break_continue(module: Module, node: ast.AST) -> Iterator[Place]:
    """A loop goes on where it should end, or ends where it should go on."""
    if isinstance(node, ast.Break | ast.Continue):
        other = b"continue" if isinstance(node, ast.Break) else b"break"
        yield from module.place(node, *module.span(node), other)
