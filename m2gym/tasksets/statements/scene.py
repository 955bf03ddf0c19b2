"""What one failing test does, told with its own lines: where its expression alone says too little.

`describe` puts a failure into one sentence when every name in it is explained. Where
one is not (a class of the tests, a loop, a value nobody can read), the lines that lead to the
failure are shown as a user would send them in, what came and what should stands in a sentence
below, and helpers too long to show are named with what they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from m2gym.tasksets.statements.describe import code, happens, is_lacking, listed
from m2gym.tasksets.statements.evidence import FailingTests, said

MAX_LINES = 16
"""So many lines of a test at most lead to its failure; the last ones count."""
MAX_HELPER_LINES = 14
"""A helper of more lines is told by what it is."""
MAX_SAID = 300
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NOISE = re.compile(r"^\s*([+-]  *where |\+ *and |\? |\^|\.\.\.|Use -v|Full diff|At index)")


def scene(tests: FailingTests, test: str, facts: Mapping[str, Any] | None) -> str | None:
    """A paragraph on one failing test, `None` when neither its code nor its failure is known.

    ``facts`` are what it saw (`m2gym.tasksets.outcomes.explain_failure`); without them, or
    where they say nothing, its failure report in ``tests`` says what came.
    """
    place = test.partition("[")[0]
    nodes = tests.functions.get(place) or []
    facts = facts or {}
    outcome = ("" if facts.get("deep") else _outcome(facts)) or _reported(tests, test)
    if not nodes or not isinstance(nodes[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return f"- **{title(test)}.** {outcome}" if outcome else None
    body = _without_docstring(nodes[0].body)
    inner = [s for s in body if isinstance(s, _DEFINITIONS)]
    line = None if is_lacking(facts) else facts.get("line")
    lines, whole = _leading([s for s in body if s not in inner], line)
    given = [f"{name} = {value}" for name, value in (facts.get("given") or {}).items()]
    text = "\n".join([*given, *lines])
    helpers, remarks = _helpers([*nodes[1:], *inner], f"{text}\n{facts.get('raw', '')}")
    block = "\n\n".join(filter(None, (*helpers, text)))
    told = f"Today: {outcome}" if whole and outcome and block else outcome
    after = " ".join(filter(None, [told or ("" if whole else "It fails."), *remarks]))
    if not block:
        return f"- **{title(test)}.** {after}"
    head = "This must work:" if whole else "With"
    lines = ["", "```python", *block.splitlines(), "```", *(["", after] if after else [])]
    rest = "\n".join(f"  {line}".rstrip() for line in lines)
    return f"- **{title(test)}.** {head}\n{rest}"


def title(test: str) -> str:
    """A test's name as words; its parameters stay as they are.

    >>> title("tests/t.py::TestThing::test_empty_input[a-1]")
    'Empty input [a-1]'
    """
    function, bracket, parameters = test.partition("::")[2].rpartition("::")[2].partition("[")
    plain = re.sub(r"^test_?", "", function)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).replace("_", " ").strip() or function
    plain = plain[:1].upper() + plain[1:]
    return f"{plain} [{parameters}" if bracket else plain


def _outcome(facts: Mapping[str, Any]) -> str:
    """What came and what should, about the test's own expression."""
    raw = str(facts.get("raw") or "")
    if not raw or re.match(r"assert\w*\(|fail\(", raw):
        return ""
    told = happens({**facts, "call": raw}, code(_plain(raw)))
    return told[:1].upper() + told[1:] if told else ""


def _reported(tests: FailingTests, test: str) -> str:
    """What the failure report says, without pytest's marks."""
    report = tests.messages.get(test) or tests.messages.get(test.partition("::")[0])
    if report is None:
        return ""
    lines = [line for line in said(report).splitlines() if line.strip() and not _NOISE.match(line)]
    if not lines:
        return ""
    lacking = re.search(r"cannot import name '(\w+)' from '([\w.]+)'", lines[0])
    if lacking:
        return f"`from {lacking[2]} import {lacking[1]}` fails: there is no such name yet."
    text = re.sub(r"^AssertionError: (assert )?", "", lines[0])
    if text != lines[0] and re.search(r" (==|!=|in|is|<|>|<=|>=) ", text):
        return f"The check fails: {code(text[:MAX_SAID])} does not hold."
    if text != lines[0]:
        return f"The check fails and says: {code(text[:MAX_SAID])}."
    return f"It ends in {code(text[:MAX_SAID])}."


def _without_docstring(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return list(body[1:] if docstring else body)


def _leading(body: Sequence[ast.stmt], line: int | None) -> tuple[list[str], bool]:
    """The lines up to a failure, the failing statement left out if it is a simple one; whether
    this is the whole test."""
    here = [s for s in body if line is not None and s.lineno <= line <= (s.end_lineno or s.lineno)]
    if not here:
        return _lines(body)[:MAX_LINES], True
    before = [s for s in body if s.lineno < here[0].lineno and not _passed(s)]
    if isinstance(here[0], ast.For | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.If):
        before.append(here[0])
    return _lines(before)[-MAX_LINES:], False


def _passed(statement: ast.stmt) -> bool:
    """Whether a statement is an assertion that calls nothing but what it compares."""
    if isinstance(statement, ast.Assert):
        return True
    call = getattr(statement, "value", None)
    return (
        isinstance(call, ast.Call)
        and re.match(r"self\.assert\w+$", ast.unparse(call.func)) is not None
    )


def _lines(statements: Iterable[ast.stmt]) -> list[str]:
    return [line for s in statements for line in _plain(ast.unparse(s)).splitlines()]


def _plain(text: str) -> str:
    return re.sub(r"\b(self|cls)\.", "", text)


def _helpers(nodes: Iterable[ast.AST], text: str) -> tuple[list[str], list[str]]:
    """What the tests define and these lines use: as code where it is short, else in a sentence."""
    shown: list[str] = []
    remarks: list[str] = []
    wanted, left = text, [n for n in nodes if not isinstance(n, ast.Import | ast.ImportFrom)]
    again = True
    while again:
        again = False
        for node in list(left):
            names = _bound(node)
            setting_up = isinstance(node, ast.FunctionDef) and node.name in _SETUPS
            used = any(re.search(rf"\b{re.escape(name)}\b", wanted) for name in names)
            if not used and not setting_up:
                continue
            left.remove(node)
            source = _bare(node)
            if setting_up and isinstance(node, ast.FunctionDef):
                source = "\n".join(_lines(_without_docstring(node.body)))
            if source.count("\n") < MAX_HELPER_LINES:
                shown.insert(0, _plain(source))
                wanted += "\n" + source
                again = True
            elif isinstance(node, ast.ClassDef):
                remarks.append(_outline(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not setting_up:
                remarks.append(f"{code(node.name)} is a helper of the caller's own.")
    return shown, remarks


_SETUPS = ("setUp", "setup_method", "setup", "setUpClass", "setup_class")


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return [n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)]


def _bare(node: ast.AST) -> str:
    """Source without decorators' noise and docstrings."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        copy = ast.parse(ast.unparse(node)).body[0]
        assert isinstance(copy, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for inner in ast.walk(copy):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner.body = _without_docstring(inner.body) or [ast.Pass()]
        return ast.unparse(copy)
    return ast.unparse(node)


def _outline(node: ast.ClassDef) -> str:
    """A class by its bases and the methods it defines."""
    own = [n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    bases = [ast.unparse(base) for base in node.bases]
    kind = f"a subclass of {listed([code(b) for b in bases])}" if bases else "a class"
    with_own = f" with {listed([code(n) for n in own[:6]])} of its own" if own else ""
    return f"{code(node.name)} is the caller's own: {kind}{with_own}."
