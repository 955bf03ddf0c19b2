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

from m2gym.tasksets.outcomes.explain_names import (
    FOREIGN,
    MAX_INLINE,
    MAX_SOURCE,
    Filler,
    Ran,
    literal_of,
)

MAX_VALUE = 600
BLOCKS = (ast.With, ast.AsyncWith)
BRANCHES = (ast.If, ast.For, ast.While, ast.Try, ast.AsyncFor, ast.Match)
SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Delete, ast.Assert)


class Among(ast.cmpop):
    """``left in right``, where ``right`` lists what is expected."""


class NotAmong(ast.cmpop):
    """``left not in right``, where ``right`` lists what must not be."""


OPERATORS: dict[type[ast.cmpop], Any] = {
    Among: lambda a, b: a in b, NotAmong: lambda a, b: a not in b,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
UNITTEST: dict[str, type[ast.cmpop]] = {
    **{f"assert{kind}": ast.Eq for kind in
       ("Equal", "Equals", "ListEqual", "DictEqual", "TupleEqual", "SetEqual", "SequenceEqual",
        "MultiLineEqual", "CountEqual", "AlmostEqual")},
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
    return {**facts, **_in_test(error.__traceback__, item, frame)}


def _in_test(trace: TracebackType | None, item: Any, seen: FrameType) -> dict[str, Any]:
    """Where the test function itself was (``line``), its parameters that are short values as source
    (``given``), and whether what was seen lies in a helper of its (``deep``)."""
    name = str(getattr(item, "originalname", "") or item.name.partition("[")[0])
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_filename == str(item.path) and frame.f_code.co_name == name:
            code = frame.f_code
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            values = {n: literal_of(frame.f_locals[n]) for n in names if n in frame.f_locals}
            given = {name: ast.unparse(node) for name, node in values.items() if node is not None}
            return {"line": trace.tb_lineno, "given": given, "deep": frame is not seen}
        trace = trace.tb_next
    return {}


class View:
    """A statement of a test, seen from the frame in which it failed."""

    def __init__(self, frame: FrameType, path: list[ast.stmt], packages: list[str]) -> None:
        self.frame, self.path, self.packages = frame, path, packages
        self.statement = path[-1]

    def judge(self, error: BaseException, raised: dict[str, Any]) -> dict[str, Any]:
        """The facts, by what kind of statement failed and how."""
        handed = self.handed_over()
        if handed is not None:
            call, wanted = handed
            kind = "accepted" if raised["own"] else "other-exception"
            return {**self.of(call), "kind": kind, "wanted": wanted, "raised": raised}
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

    def handed_over(self) -> tuple[ast.Call, str] | None:
        """The call that ``assertRaises(error, function, *arguments)`` makes, and the error."""
        node = self.statement.value if isinstance(self.statement, ast.Expr) else None
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            return None
        name = ast.unparse(node.func).rpartition(".")[2]
        if name not in ("raises", "assertRaises", "warns", "assertWarns"):
            return None
        function = node.args[1]
        if isinstance(function, ast.Lambda) and isinstance(function.body, ast.Call):
            return function.body, ast.unparse(node.args[0])
        call = ast.Call(function, node.args[2:], node.keywords)
        return ast.copy_location(call, node), ast.unparse(node.args[0])

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
            if name in ("assertIsInstance", "assertNotIsInstance") and len(call.args) >= 2:
                kind = ast.Call(ast.Name("isinstance", ast.Load()), call.args[:2], [])
                return ast.copy_location(ast.fix_missing_locations(kind), call), None, None
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
            if self.weight(left)[0] and not self.weight(right)[0]:
                return left, Among if sign is ast.In else NotAmong, right
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
            if inner is not got:
                facts["part"] = [path, shown(inner), shown(wanted)]
        return facts

    def truth(self, seen: ast.expr) -> dict[str, Any]:
        written = ast.unparse(self.statement)[:30]
        wanted = not re.search(r"\bassert(False|NotIsInstance)\(", written)
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

        ``raw`` is the expression as the test writes it; ``origins`` are locals it still names, with
        how the test made them; ``steps`` is what the test did with them since; ``kinds`` are those
        it was given, with their type; ``notes`` are helpers of the tests that it calls, with their
        source; ``open`` are names of which nothing is known.
        """
        if node is None:
            return {}
        filler = Filler(self)
        filled, raw = filler.text(node), ast.unparse(node)
        if len(filled) > MAX_SOURCE:
            return {"api": self.apis(node, {}), "raw": raw[:MAX_SOURCE]}
        return {
            "call": filled,
            "raw": raw,
            "origins": filler.origins,
            "steps": filler.steps,
            "kinds": filler.kinds,
            "notes": filler.notes,
            "open": sorted(filler.unknown),
            "api": self.apis(node, filler.made),
        }

    def before(self) -> list[Ran]:
        """The simple statements of the test that ran before this one, each with whether it is sure
        that it did, once: what stands in a branch or a loop is not."""
        found: list[Ran] = []
        for outer, inner in zip(self.path, self.path[1:], strict=False):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(outer, name, [])
                if inner in block:
                    for statement in block[: block.index(inner)]:
                        found += _simple(statement, True)
        return sorted(found, key=lambda pair: pair[0].lineno)

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
            called = getattr(value, "__name__", "")
            known = isinstance(called, str) and called.isidentifier()
            name = f"{type(owner).__name__}.{called}" if known else ""
        elif isinstance(func, ast.Name) and func.id in self.frame.f_locals:
            name = "" if hasattr(value, "__code__") else _name_of(value)
        else:
            name = ast.unparse(func)
        return None if not name or name.endswith(".") or "._" in f".{name}" else name


def _simple(statement: ast.stmt, sure: bool) -> list[Ran]:
    if isinstance(statement, SIMPLE):
        return [(statement, sure)]
    if not isinstance(statement, (*BLOCKS, *BRANCHES)):
        return []
    sure = sure and isinstance(statement, BLOCKS)
    inner = [n for n in ast.iter_child_nodes(statement) if isinstance(n, ast.stmt)]
    handlers = [n for h in getattr(statement, "handlers", []) for n in h.body]
    return [pair for one in (*inner, *handlers) for pair in _simple(one, sure)]


def _own(func: ast.Attribute) -> bool:
    """Whether this is a helper of the test case itself."""
    return isinstance(func.value, ast.Name) and func.value.id in ("self", "cls")


def _name_of(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def different(got: Any, expected: Any, path: str = "") -> tuple[str, Any, Any]:
    """Where two nested values part: path, what is there, what should be.

    Of dictionaries that do not have the same keys, the items that the other does not have.
    """
    if type(got) is type(expected) and isinstance(got, dict) and got.keys() == expected.keys():
        for key in got:
            if got[key] != expected[key]:
                return different(got[key], expected[key], f"{path}[{key!r}]")
    elif type(got) is type(expected) and isinstance(got, dict):
        more = {k: v for k, v in got.items() if k not in expected or expected[k] != v}
        lacking = {k: v for k, v in expected.items() if k not in got or got[k] != v}
        return path, more, lacking
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
