"""Sent to a box as text: what a failing test saw, as facts a bug report can be written from.

The test's own statement is looked at where it failed: what was called with which values, what came,
what was expected. Values are shown as text; what cannot be told for sure is left out.
"""

from __future__ import annotations

import ast
import operator
import re
from types import FrameType, ModuleType, TracebackType
from typing import Any

import pytest

MAX_VALUE, MAX_SOURCE, MAX_INLINE = 600, 240, 100
SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Delete)
FOREIGN = (Exception, pytest.fail.Exception, pytest.skip.Exception)
"""What code of strangers may raise while its values are looked at."""

OPERATORS: dict[type[ast.cmpop], Any] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
UNITTEST: dict[str, type[ast.cmpop]] = {
    **{f"assert{kind}": ast.Eq for kind in
       ("Equal", "Equals", "ListEqual", "DictEqual", "TupleEqual", "SetEqual", "SequenceEqual",
        "MultiLineEqual", "CountEqual")},
    "assertNotEqual": ast.NotEq, "assertIs": ast.Is, "assertIsNot": ast.IsNot, "assertIn": ast.In,
    "assertNotIn": ast.NotIn, "assertLess": ast.Lt, "assertLessEqual": ast.LtE,
    "assertGreater": ast.Gt, "assertGreaterEqual": ast.GtE,
}  # fmt: skip
_trees: dict[str, ast.Module | None] = {}


def explain(item: Any, error: BaseException, packages: list[str]) -> dict[str, Any]:
    """Facts about one failure; ``packages`` are the import names of the package under test."""
    doctest = _doctest(error)
    if doctest is not None:
        return doctest
    raised = {
        "type": _type_name(type(error)),
        "message": _clean(str(error))[:MAX_VALUE],
        "own": isinstance(error, AssertionError | pytest.fail.Exception),
    }
    found = _in_tests(error.__traceback__, str(item.path))
    if found is None:
        return {"kind": "raised", "raised": raised}
    frame, line = found
    path = _path_to(frame.f_code.co_filename, line)
    if not path:
        return {"kind": "raised", "raised": raised}
    view = View(frame, path, packages)
    facts = view.judge(error, raised)
    facts["function"] = frame.f_code.co_name
    return facts


class View:
    """A statement of a test, seen from the frame in which it failed."""

    def __init__(self, frame: FrameType, path: list[ast.stmt], packages: list[str]) -> None:
        self.frame, self.path, self.packages = frame, path, packages
        self.statement = path[-1]

    def judge(self, error: BaseException, raised: dict[str, Any]) -> dict[str, Any]:
        """The facts, by what kind of statement failed and how."""
        expected = self.expected_exception()
        inside = isinstance(self.statement, ast.With | ast.AsyncWith) and self.path[-1] is not None
        if expected is not None and inside and raised["own"]:
            body = self.statement.body[-1]  # type: ignore[attr-defined]
            kind = "message" if "attern" in raised["message"] else "accepted"
            return {
                **self.of(_expression(body)),
                "kind": kind,
                "wanted": expected,
                "raised": raised,
            }
        if expected is not None and not raised["own"]:
            expression = _expression(self.statement)
            if isinstance(self.statement, ast.With | ast.AsyncWith):
                expression = _expression(self.statement.body[-1])
            return {
                **self.of(expression),
                "kind": "other-exception",
                "wanted": expected,
                "raised": raised,
            }
        compared = self.comparison()
        if not raised["own"]:
            facts = self.of(compared[0] if compared else _expression(self.statement))
            facts |= {"kind": "raised", "raised": raised}
            if compared is not None and compared[1] is ast.Eq and compared[2] is not None:
                try:
                    facts["expected"] = shown(self.value(compared[2]))
                except FOREIGN:
                    return facts
            return facts
        if compared is not None and compared[1] is not None:
            got = self.compare(*compared)  # type: ignore[arg-type]
            return {**self.of(compared[0]), **got, "raised": raised}
        if compared is not None:
            return {**self.of(compared[0]), **self.truth(compared[0]), "raised": raised}
        return {**self.of(_expression(self.statement)), "kind": "failed", "raised": raised}

    def expected_exception(self) -> str | None:
        """The exception that a surrounding ``raises`` waits for, as the test writes it."""
        for node in reversed(self.path):
            if isinstance(node, ast.With | ast.AsyncWith):
                for entry in node.items:
                    call = entry.context_expr
                    if isinstance(call, ast.Call) and call.args:
                        name = ast.unparse(call.func).rpartition(".")[2]
                        if name in ("raises", "assertRaises", "assertRaisesRegex", "warns"):
                            return ast.unparse(call.args[0])
        return None

    def comparison(self) -> tuple[ast.expr, type[ast.cmpop] | None, ast.expr | None] | None:
        """What is seen, how it is compared and with what; `None` for both: is it true."""
        node = self.statement
        if isinstance(node, ast.Assert):
            test = node.test
            if isinstance(test, ast.Compare) and len(test.ops) == 1:
                return self.ordered(test.left, type(test.ops[0]), test.comparators[0])
            return test, None, None
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            name = ast.unparse(call.func).rpartition(".")[2]
            if name in UNITTEST and len(call.args) >= 2:
                return self.ordered(call.args[0], UNITTEST[name], call.args[1])
            if name in ("assertTrue", "assert_", "assertFalse", "assertIsNone") and call.args:
                if name == "assertIsNone":
                    return call.args[0], ast.Is, ast.Constant(None)
                return call.args[0], None, None
        return None

    def ordered(
        self, left: ast.expr, sign: type[ast.cmpop], right: ast.expr
    ) -> tuple[ast.expr, type[ast.cmpop], ast.expr]:
        """The side that is computed first, where the signs allow it."""
        if sign in (ast.In, ast.NotIn):
            return right, sign, left
        turned = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}
        if self.weight(right) > self.weight(left):
            return right, turned.get(sign, sign), left
        return left, sign, right

    def weight(self, node: ast.expr) -> tuple[bool, int]:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        expected = any(re.match(r"(expect|want|should|correct|answer|right)", n) for n in names)
        calls = sum(isinstance(n, ast.Call) for n in ast.walk(node))
        literal = isinstance(node, ast.Constant)
        return (not expected and not literal and bool(calls or names)), calls

    def compare(self, seen: ast.expr, sign: type[ast.cmpop], other: ast.expr) -> dict[str, Any]:
        facts: dict[str, Any] = {"kind": "compared", "sign": sign.__name__}
        try:
            got, expected = self.value(seen), self.value(other)
            pair = (expected, got) if sign in (ast.In, ast.NotIn) else (got, expected)
            wrong = not OPERATORS[sign](*pair)
        except FOREIGN:
            return {**facts, "kind": "failed"}
        if not wrong:
            return {**facts, "kind": "failed"}
        facts["got"], facts["got_type"] = shown(got), _type_name(type(got))
        facts["expected"], facts["expected_type"] = shown(expected), _type_name(type(expected))
        if isinstance(got, str) and isinstance(expected, str):
            facts["texts"] = [got[:4000], expected[:4000]]
        elif sign is ast.Eq and len(facts["got"]) + len(facts["expected"]) > MAX_INLINE:
            try:
                path, inner, wanted = different(got, expected)
            except FOREIGN:
                return facts
            if path:
                facts["part"] = [path, shown(inner), shown(wanted)]
        return facts

    def truth(self, seen: ast.expr) -> dict[str, Any]:
        wanted = "assertFalse" not in ast.unparse(self.statement)[:30]
        try:
            got = self.value(seen)
        except FOREIGN:
            return {"kind": "failed"}
        if bool(got) == wanted:
            return {"kind": "failed"}
        return {"kind": "truth", "got": shown(got), "wanted": wanted}

    def value(self, node: ast.expr) -> Any:
        code = compile(ast.Expression(node), "<seen>", "eval")
        return eval(code, self.frame.f_globals, self.frame.f_locals)

    def of(self, node: ast.expr | None) -> dict[str, Any]:
        """An expression of the test with its values filled in, and where the others come from.

        ``origins`` are locals the expression still names, with how the test made them; ``steps`` is
        what the test did with them since; ``kinds`` are those it was given, with their type;
        ``open`` are locals of which nothing is known.
        """
        if node is None:
            return {}
        filler = Filler(self)
        filled = filler.text(node)
        if len(filled) > MAX_SOURCE:
            return {"api": self.apis(node, {})}
        names = {n.id for n in ast.walk(ast.parse(filled)) if isinstance(n, ast.Name)}
        return {
            "call": filled,
            "origins": filler.origins,
            "steps": filler.steps,
            "kinds": filler.kinds,
            "open": sorted(names & filler.unknown),
            "api": self.apis(node, filler.made),
        }

    def before(self) -> list[ast.stmt]:
        """The simple statements of the test that ran before this one, as far as syntax tells."""
        found: list[ast.stmt] = []
        for outer, inner in zip(self.path, self.path[1:], strict=False):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(outer, name, [])
                if inner in block:
                    for statement in block[: block.index(inner)]:
                        found += [s for s in ast.walk(statement) if isinstance(s, SIMPLE)]
        return sorted(found, key=lambda s: s.lineno)

    def apis(self, node: ast.expr, origins: dict[str, str]) -> list[str]:
        """Names of the package's own callables in an expression, as a caller writes them."""
        names: list[str] = []
        nodes: list[ast.AST] = [node]
        for text in origins.values():
            nodes.append(ast.parse(text, mode="eval"))
        for top in nodes:
            for call in (n for n in ast.walk(top) if isinstance(n, ast.Call)):
                if isinstance(call.func, ast.Name | ast.Attribute):
                    name = self.api(call.func)
                    if name and name not in names:
                        names.append(name)
        return names

    def api(self, func: ast.Name | ast.Attribute) -> str | None:
        """The name of a callable if it is the package's own and public."""
        root: ast.expr = func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or (isinstance(func, ast.Attribute) and _own(func)):
            return None
        try:
            value = self.value(func)
            owner = getattr(value, "__self__", None)
            module = str(getattr(value, "__module__", None) or type(owner).__module__)
        except FOREIGN:
            return None
        parts = module.split(".")
        if parts[0] not in self.packages or any(p.startswith(("test", "_test")) for p in parts):
            return None
        if owner is not None and not isinstance(owner, type | ModuleType):
            name = f"{type(owner).__name__}.{getattr(value, '__name__', '')}"
        elif isinstance(func, ast.Name) and func.id in self.frame.f_locals:
            name = "" if hasattr(value, "__code__") else _name_of(value)
        else:
            name = ast.unparse(func)
        return None if not name or name.endswith(".") or "._" in f".{name}" else name


def _own(func: ast.Attribute) -> bool:
    """Whether this is a helper of the test case itself."""
    return isinstance(func.value, ast.Name) and func.value.id in ("self", "cls")


def _name_of(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


class Filler:
    """Puts values and origins into an expression of a test."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.ran = view.before()
        self.origins: dict[str, str] = {}
        self.made: dict[str, str] = {}
        self.steps: list[str] = []
        self.unknown: set[str] = set()
        self.kinds: dict[str, str] = {}

    def text(self, node: ast.expr) -> str:
        return ast.unparse(self.filled(node, self.view.statement.lineno, 0))

    def filled(self, node: ast.expr, line: int, depth: int) -> ast.expr:
        tree = ast.parse(ast.unparse(node), mode="eval").body
        called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        bound = {
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        filler = self

        class Fill(ast.NodeTransformer):
            def visit_Name(self, name: ast.Name) -> ast.expr:
                if name.id in bound:
                    return name
                return filler.local(name, line, depth, id(name) in called)

        filled: ast.expr = Fill().visit(tree)
        return filled

    def local(self, name: ast.Name, line: int, depth: int, called: bool) -> ast.expr:
        """What stands for a local: how it was made, its value, or itself."""
        values = self.view.frame.f_locals
        if name.id not in values or name.id in ("self", "cls"):
            return name
        literal = None if called else _literal(values[name.id])
        made = next((s for s in reversed(self.ran) if s.lineno < line and _makes(s, name.id)), None)
        if made is None or depth > 3:
            if literal is None and not _plain_callable(values[name.id]):
                self.given(name.id, values[name.id])
            return literal or name
        assert isinstance(made, ast.Assign | ast.AnnAssign)
        assert made.value is not None
        if literal is not None and not any(isinstance(n, ast.Call) for n in ast.walk(made.value)):
            return literal
        origin = self.filled(made.value, made.lineno, depth + 1)
        text = ast.unparse(origin)
        self.made[name.id] = text
        steps = [s for s in self.ran if made.lineno < s.lineno < line and _changes(s, name.id)]
        if not steps and len(text) <= MAX_INLINE and not isinstance(origin, ast.Lambda):
            return origin
        if len(text) > MAX_SOURCE:
            if literal is None:
                self.unknown.add(name.id)
            return literal or name
        self.origins.setdefault(name.id, text)
        for step in steps:
            if step not in self.ran[: self.ran.index(made)]:
                told = self.step(step, depth)
                if told not in self.steps:
                    self.steps.append(told)
        return name

    def given(self, name: str, value: Any) -> None:
        """A local the test did not make itself: its type says what it is if it is the package's."""
        kind = type(value)
        if kind.__module__.partition(".")[0] in self.view.packages and kind.__name__[0] != "_":
            self.kinds[name] = kind.__name__
        else:
            self.unknown.add(name)

    def step(self, statement: ast.stmt, depth: int) -> str:
        """A statement with plain values in the place of other locals."""
        tree = ast.parse(ast.unparse(statement)).body[0]
        values = self.view.frame.f_locals

        class Fill(ast.NodeTransformer):
            def visit_Name(self, name: ast.Name) -> ast.expr:
                if isinstance(name.ctx, ast.Load) and name.id in values:
                    return _literal(values[name.id]) or name
                return name

        return ast.unparse(Fill().visit(tree))[:MAX_SOURCE]


def _makes(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return isinstance(statement.target, ast.Name) and statement.target.id == name
    return isinstance(statement, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == name for t in statement.targets
    )


def _changes(statement: ast.stmt, name: str) -> bool:
    """Whether a statement may change what a local is: a method called on it, an item set in it."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Expr):
        call = statement.value.value if isinstance(statement.value, ast.Await) else statement.value
        if not isinstance(call, ast.Call):
            return False
        targets = [call.func, *call.args]
        if ast.unparse(call.func).rpartition(".")[2].startswith("assert"):
            return False
    elif isinstance(statement, ast.Assign | ast.Delete):
        targets = [t for t in statement.targets if not isinstance(t, ast.Name)]
    elif isinstance(statement, ast.AugAssign):
        targets = [statement.target]
    for target in targets:
        base = target
        while isinstance(base, ast.Attribute | ast.Subscript | ast.Call):
            base = base.func if isinstance(base, ast.Call) else base.value
        if isinstance(base, ast.Name) and base.id == name:
            return True
    return False


def _plain_callable(value: Any) -> bool:
    """A function, class or module: its name says what it is."""
    return isinstance(value, type | ModuleType) or hasattr(value, "__qualname__")


def different(got: Any, expected: Any, path: str = "") -> tuple[str, Any, Any]:
    """Where two nested values part: path, what is there, what should be."""
    if type(got) is type(expected) and isinstance(got, dict) and got.keys() == expected.keys():
        for key in got:
            if got[key] != expected[key]:
                return different(got[key], expected[key], f"{path}[{key!r}]")
    if type(got) is type(expected) and isinstance(got, list | tuple) and len(got) == len(expected):
        for number, (one, other) in enumerate(zip(got, expected, strict=True)):
            if one != other:
                return different(one, other, f"{path}[{number}]")
    return path, got, expected


def _in_tests(trace: TracebackType | None, path: str) -> tuple[FrameType, int] | None:
    """The last frame of the test's own file."""
    found = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            found = trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next
    return found


def _path_to(filename: str, line: int) -> list[ast.stmt]:
    """The statements around a line, from the outermost function inwards."""
    if filename not in _trees:
        try:
            with open(filename, "rb") as stream:  # noqa: PTH123
                _trees[filename] = ast.parse(stream.read())
        except (OSError, SyntaxError, ValueError):
            _trees[filename] = None
    tree = _trees[filename]
    path: list[ast.stmt] = []
    body: list[ast.stmt] = tree.body if tree is not None else []
    while body:
        here = next((s for s in body if s.lineno <= line <= (s.end_lineno or s.lineno)), None)
        if here is None:
            break
        path.append(here)
        fields = ("body", "orelse", "finalbody", "handlers")
        body = [s for f in fields for s in getattr(here, f, []) if hasattr(s, "lineno")]
    while path and isinstance(path[0], ast.ClassDef):
        path.pop(0)
    return path


def _expression(node: ast.AST) -> ast.expr | None:
    value = getattr(node, "value", None)
    if isinstance(node, ast.Assert):
        return node.test
    if isinstance(node, ast.For):
        return node.iter
    if isinstance(node, ast.With) and isinstance(node.items[0].context_expr, ast.Call):
        return node.items[0].context_expr
    return value if isinstance(value, ast.expr) else None


def _literal(value: Any) -> ast.expr | None:
    """A short value as source, when the source gives the same value back."""
    if not isinstance(value, str | bytes | int | float | bool | tuple | list | dict | set | None):
        return None
    try:
        text = repr(value)
        if len(text) > 100 or ast.literal_eval(text) != value:
            return None
        return ast.parse(text, mode="eval").body
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return None


def shown(value: Any) -> str:
    """A value as text, bounded, without addresses."""
    try:
        text = repr(value)
    except FOREIGN:
        return f"a {type(value).__name__}"
    return _clean(text)[:MAX_VALUE]


def _clean(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _type_name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _doctest(error: BaseException) -> dict[str, Any] | None:
    first = (getattr(error, "failures", None) or [error])[0]
    example = getattr(first, "example", None)
    if example is None:
        return None
    facts: dict[str, Any] = {"call": example.source.strip(), "origins": {}, "api": []}
    if hasattr(first, "got"):
        facts |= {"kind": "printed", "got": first.got.strip(), "expected": example.want.strip()}
    else:
        kind, value = getattr(first, "exc_info", (type(error), error))[:2]
        facts["kind"] = "raised"
        facts["raised"] = {"type": _type_name(kind), "message": str(value)[:MAX_VALUE]}
    return facts
