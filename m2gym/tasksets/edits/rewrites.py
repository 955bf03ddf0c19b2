"""Ways to write a function differently that no caller can see.

Each takes a function and gives it back, changed where the way applies. What is exact for every
object is done only: no ``a == b`` becomes ``not a != b``, for a class may define both.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

Function = ast.FunctionDef | ast.AsyncFunctionDef
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, *_COMPREHENSIONS)


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


def restructured(function: Function) -> Function:
    """Returned values named first, branches turned, an unused local added."""
    for transformer in (_Named(), _Turned()):
        function.body = [s for old in function.body for s in _flat(transformer.visit(old))]
    at = 1 if ast.get_docstring(function, clean=False) is not None else 0
    unused = ast.Assign([ast.Name("unused_", ast.Store())], ast.Constant(None), lineno=0)
    function.body.insert(at, unused)
    return function


_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


class _Negated(ast.NodeTransformer):
    """Conditions are turned about twice (De Morgan); ``is`` and ``in`` by their opposites."""

    def visit_If(self, node: ast.If) -> ast.If:
        node.test = _turned_about(node.test)
        self.generic_visit(node)
        return node

    def visit_While(self, node: ast.While) -> ast.While:
        node.test = _turned_about(node.test)
        self.generic_visit(node)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.IfExp:
        node.test = _turned_about(node.test)
        self.generic_visit(node)
        return node


def _turned_about(test: ast.expr) -> ast.expr:
    """The same truth, said by its opposite where there is one; for conditions only."""
    if isinstance(test, ast.BoolOp):
        operator = ast.Or() if isinstance(test.op, ast.And) else ast.And()
        values: list[ast.expr] = [ast.UnaryOp(ast.Not(), value) for value in test.values]
        return ast.UnaryOp(ast.Not(), ast.BoolOp(operator, values))
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in _OPPOSITE:
        opposite = _OPPOSITE[type(test.ops[0])]()
        return ast.UnaryOp(ast.Not(), ast.Compare(test.left, [opposite], test.comparators))
    return test


def negated(function: Function) -> Function:
    """Conditions said by their opposites."""
    function.body = [_Negated().visit(statement) for statement in function.body]
    return function


_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)


def branched(function: Function) -> Function:
    """What follows an ``if`` that leaves goes into its ``else``, and the other way round."""
    for node in list(ast.walk(function)):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                setattr(node, field, _branched(block))
    return function


def _branched(block: Sequence[ast.stmt]) -> list[ast.stmt]:
    for number, node in enumerate(block):
        if isinstance(node, ast.If) and isinstance(node.body[-1], _LEAVES):
            before, rest = list(block[:number]), list(block[number + 1 :])
            if node.orelse:
                return [*before, ast.If(node.test, node.body, []), *node.orelse, *rest]
            if rest:
                return [*before, ast.If(node.test, node.body, rest)]
    return list(block)


def renamed(function: Function) -> Function:
    """Locals (not parameters) get other names."""
    nodes = list(ast.walk(function))
    if any(isinstance(n, ast.Match | ast.ClassDef) for n in nodes):
        return function
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    fixed = {a.arg for n in nodes if isinstance(n, ast.arguments) for a in _arguments(n)}
    fixed |= {n for s in nodes if isinstance(s, ast.Global | ast.Nonlocal) for n in s.names}
    fixed |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            fixed |= {(a.asname or a.name).partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            fixed.add(node.name)
    head = (*function.decorator_list, function.args, function.returns)
    outside = [n for part in head if part is not None for n in ast.walk(part)]
    inner = [
        n
        for scope in nodes
        if isinstance(scope, _SCOPES) and scope is not function
        for n in ast.walk(scope)
    ]
    fixed |= {n.id for n in outside if isinstance(n, ast.Name)}
    fixed |= {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    table = {name: f"{name}_1" for name in stored - fixed if f"{name}_1" not in names | fixed}
    for node in nodes:
        if isinstance(node, ast.Name):
            node.id = table.get(node.id, node.id)
    return function


def _arguments(a: ast.arguments) -> list[ast.arg]:
    rest = [x for x in (a.vararg, a.kwarg) if x is not None]
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *rest]


class _Looped(ast.NodeTransformer):
    """A list that a comprehension makes is made by a loop."""

    def __init__(self) -> None:
        self.made = 0

    def visit_Return(self, node: ast.Return) -> list[ast.stmt] | ast.Return:
        return self._loop(node.value, lambda value: ast.Return(value)) or node

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt] | ast.Assign:
        def assign(value: ast.expr) -> ast.stmt:
            return ast.Assign(node.targets, value, lineno=node.lineno)

        return self._loop(node.value, assign) or node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return node

    def _loop(self, value: ast.expr | None, use: Callable[[ast.expr], ast.stmt]) -> list[ast.stmt]:
        if not isinstance(value, ast.ListComp) or len(value.generators) > 1:
            return []
        [generator] = value.generators
        inner = [generator.target, *generator.ifs, value.elt]
        nodes = [n for part in inner for n in ast.walk(part)]
        if generator.is_async or any(isinstance(n, (*_SCOPES, ast.NamedExpr)) for n in nodes):
            return []
        self.made += 1
        targets = {n.id for n in ast.walk(generator.target) if isinstance(n, ast.Name)}
        for node in nodes:
            if isinstance(node, ast.Name) and node.id in targets:
                node.id = f"{node.id}_{self.made}_"
        name = f"items_{self.made}_"
        append = ast.Attribute(ast.Name(name, ast.Load()), "append", ast.Load())
        body: list[ast.stmt] = [ast.Expr(ast.Call(append, [value.elt], []))]
        for test in reversed(generator.ifs):
            body = [ast.If(test, body, [])]
        empty = ast.Assign([ast.Name(name, ast.Store())], ast.List([], ast.Load()), lineno=0)
        loop = ast.For(generator.target, generator.iter, body, [], lineno=0)
        return [empty, loop, use(ast.Name(name, ast.Load()))]


def looped(function: Function) -> Function:
    """Lists made by comprehensions are made by loops."""
    transformer = _Looped()
    function.body = [s for old in function.body for s in _flat(transformer.visit(old))]
    return function


def _flat(node: ast.stmt | list[ast.stmt]) -> list[ast.stmt]:
    return node if isinstance(node, list) else [node]
