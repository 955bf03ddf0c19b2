"""Sent to a box as text: what the names in a failing test's expression stand for.

Locals are replaced by short values or by how the test made them; what was done to them since is
kept as steps; helpers that the tests define are kept with their source. What none of this explains
is told as unknown, so that nobody writes of it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import re
import sys
import textwrap
from types import FrameType, ModuleType
from typing import Any, Protocol

import pytest

MAX_SOURCE, MAX_INLINE = 240, 100
MAX_NOTE, MAX_NOTES, MAX_STEPS, MAX_DEPTH = 200, 3, 6, 3
"""Bounds of a helper's source, of helpers and steps told, and of origins within origins."""
FOREIGN = (Exception, pytest.fail.Exception, pytest.skip.Exception)
"""What code of strangers may raise while its values are looked at."""
SETUPS = ("setUp", "setup_method", "setup", "setUpClass", "setup_class")
PLAIN = (str, bytes, int, float, bool, complex, type(None))
MISSING = object()

Ran = tuple[ast.stmt, bool]
"""A statement that ran, and whether it is sure that it did so once."""


class Seen(Protocol):
    """What is asked of a failing statement (`explain_failure.View`)."""

    frame: FrameType
    statement: ast.stmt
    packages: list[str]

    def before(self) -> list[Ran]: ...


class Filler:
    """Puts values and origins into an expression of a test."""

    def __init__(self, view: Seen) -> None:
        self.view = view
        self.ran = view.before()
        self.origins: dict[str, str] = {}
        self.made: dict[str, str] = {}
        self.steps: list[str] = []
        self.unknown: set[str] = set()
        self.kinds: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        code = view.frame.f_code
        first = code.co_varnames[0] if code.co_argcount else ""
        self.own = first if first in ("self", "cls") else ""

    def text(self, node: ast.expr) -> str:
        """The expression with all that is known put in."""
        return ast.unparse(self.filled(node, self.view.statement.lineno, 0))

    def filled(self, node: ast.expr, line: int, depth: int) -> ast.expr:
        """``node``, a part of the test's line ``line``, with names replaced."""
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

            def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
                if isinstance(node.value, ast.Name) and node.value.id == filler.own != "":
                    return filler.attribute(node, id(node) in called)
                return self.generic_visit(node)

            def visit_Call(self, call: ast.Call) -> ast.AST:
                self.generic_visit(call)
                return spread(call)

        filled: ast.expr = Fill().visit(tree)
        return filled

    def local(self, name: ast.Name, line: int, depth: int, called: bool) -> ast.expr:
        """What stands for a name: how it was made, its value, or itself."""
        values = self.view.frame.f_locals
        if name.id == self.own:
            self.unknown.add(name.id)
            return name
        if name.id not in values:
            return self.outer(name, called)
        value = values[name.id]
        literal = None if called else literal_of(value)
        made = next(((s, ok) for s, ok in reversed(self.ran) if s.lineno < line
                     and _makes(s, name.id)), None)  # fmt: skip
        if made is None or depth > MAX_DEPTH:
            return literal or self.thing(name, value)
        statement, sure = made
        assert isinstance(statement, ast.Assign | ast.AnnAssign)
        assert statement.value is not None
        if literal is not None and not any(
            isinstance(n, ast.Call) for n in ast.walk(statement.value)
        ):
            return literal
        if not sure:
            return literal or self.thing(name, value)
        before = set(self.unknown), dict(self.notes), dict(self.kinds)
        origin = self.filled(statement.value, statement.lineno, depth + 1)
        text = ast.unparse(origin)
        self.made[name.id] = text
        steps, related = (
            ([], set()) if isinstance(value, PLAIN) else self.story(name.id, statement.lineno, line)
        )
        if steps is None:
            self.unknown.add(name.id)
            return name
        if not steps and len(text) <= MAX_INLINE and not isinstance(origin, ast.Lambda):
            return origin
        if len(text) > MAX_SOURCE:
            if literal is None:
                self.unknown.add(name.id)
            else:
                self.unknown, self.notes, self.kinds = before
            return literal or name
        self.origins.setdefault(name.id, text)
        for step in steps:
            told = self.step(step, line, depth, related)
            if told not in self.steps:
                self.steps.append(told)
        return name

    def story(self, name: str, start: int, end: int) -> tuple[list[ast.AST] | None, set[str]]:
        """What the test did between two lines that may have changed an object, or objects it was
        given to (`None` when that is too much, or not sure), and the names of all of these."""
        related = {name}
        done: list[tuple[ast.AST, bool, bool]] = []
        for statement, sure in self.ran:
            if not start < statement.lineno < end:
                continue
            inner = _asserted(statement)
            for node in [statement] if inner is None else inner:
                if _touches(node, related):
                    done.append((node, sure, inner is not None))
            if isinstance(statement, ast.Assign) and _touches(statement, related):
                values = self.view.frame.f_locals
                for target in statement.targets:
                    if isinstance(target, ast.Name) and not isinstance(
                        values.get(target.id), PLAIN
                    ):
                        related.add(target.id)
        if len(done) > MAX_STEPS:
            done = [entry for entry in done if not entry[2]]
        if len(done) > MAX_STEPS or not all(sure for _, sure, _ in done):
            return None, related
        return [node for node, _, _ in done], related

    def step(self, statement: ast.AST, line: int, depth: int, related: set[str]) -> str:
        """A statement with what is known put in for its other names."""
        tree = ast.parse(ast.unparse(statement)).body[0]
        filler, at = self, getattr(statement, "lineno", line)
        known = {*self.origins, *related, *(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
                                  and isinstance(n.ctx, ast.Store))}  # fmt: skip
        known |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}

        class Fill(ast.NodeTransformer):
            def visit_Name(self, name: ast.Name) -> ast.expr:
                if name.id in known or not isinstance(name.ctx, ast.Load):
                    return name
                made = any(_makes(s, name.id) for s, _ in filler.ran if s.lineno < at)
                values = filler.view.frame.f_locals
                literal = literal_of(values[name.id]) if name.id in values else None
                if made and literal is None and name.id in values:
                    return filler.local(name, at, depth + 1, False)
                return literal or filler.local(name, at, MAX_DEPTH + 1, False)

            def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
                if isinstance(node.value, ast.Name) and node.value.id == filler.own != "":
                    return filler.attribute(node, True)
                return self.generic_visit(node)

        text = ast.unparse(Fill().visit(tree))
        if len(text) > MAX_SOURCE:
            self.unknown.add(text[:MAX_SOURCE])
        return text[:MAX_SOURCE]

    def outer(self, name: ast.Name, called: bool) -> ast.expr:
        """A name of the module, or of the language."""
        value = self.view.frame.f_globals.get(name.id, MISSING)
        if value is MISSING:
            if not hasattr(builtins, name.id):
                self.unknown.add(name.id)
            return name
        return (None if called else literal_of(value)) or self.thing(name, value)

    def thing(self, name: ast.Name, value: Any) -> ast.expr:
        """What is no short value: by its own name, with its source, or with its type."""
        if isinstance(value, ModuleType):
            return name
        if plain_callable(value):
            if self.of_tests(value):
                self.note(name.id, value)
                return name
            module = str(getattr(value, "__module__", None) or "")
            plain = str(getattr(value, "__qualname__", name.id))
            if name.id in self.view.frame.f_locals and module == "builtins":
                return ast.Name(plain)
            if name.id in self.view.frame.f_locals and name.id != plain and "<" not in plain:
                parsed: ast.expr = ast.parse(public(module, plain, value), mode="eval").body
                return parsed
            if "<" in plain:
                self.unknown.add(name.id)
            return name
        self.given(name.id, value)
        return name

    def given(self, name: str, value: Any) -> None:
        """A local the test did not make itself: its type says what it is if it is the package's."""
        kind = type(value)
        ours = kind.__module__.partition(".")[0] in self.view.packages
        if ours and kind.__name__[0] != "_" and not self.of_tests(kind):
            self.kinds[name] = kind.__name__
        else:
            self.unknown.add(name)

    def attribute(self, node: ast.Attribute, called: bool) -> ast.expr:
        """What stands for ``self.name`` in a test case."""
        case = self.view.frame.f_locals[self.own]
        try:
            value = getattr(case, node.attr)
        except FOREIGN:
            self.unknown.add(node.attr)
            return node
        literal = None if called else literal_of(value)
        if literal is not None:
            return literal
        name = ast.Name(node.attr, ast.Load())
        if inspect.ismethod(value) and value.__self__ in (case, type(case)):
            if self.of_tests(value.__func__):
                self.note(node.attr, value.__func__, case)
            return node
        if plain_callable(value):
            if self.of_tests(value):
                self.note(node.attr, value)
                return node
            module, plain = str(getattr(value, "__module__", "")), value.__qualname__
            where = plain if module == "builtins" else public(module, plain, value)
            return ast.parse(where, mode="eval").body if "<" not in plain else name
        if node.attr not in self.origins and node.attr not in self.kinds:
            self.from_setup(node.attr, value, case)
        return node

    def from_setup(self, attribute: str, value: Any, case: Any) -> None:
        """How the test case's own set-up makes an attribute, and what it does to it."""
        kind = case if isinstance(case, type) else type(case)
        for method in (getattr(kind, name, None) for name in SETUPS):
            tree = _tree_of(method)
            body = tree.body[0].body if tree and isinstance(tree.body[0], ast.FunctionDef) else []
            made = [s for s in body if isinstance(s, ast.Assign) and any(
                ast.unparse(t) == f"self.{attribute}" for t in s.targets)]  # fmt: skip
            if not made:
                continue
            whole = _inlined(made[-1].value, body)
            text = ast.unparse(whole)
            later = [s for s in body if s.lineno > made[-1].lineno]
            steps = [ast.unparse(s) for s in later if f"self.{attribute}" in ast.unparse(s)]
            around = getattr(method, "__globals__", {})
            known = len(text) <= 2 * MAX_SOURCE and len(steps) <= MAX_STEPS
            if not known or not self.explained(whole, body, around):
                break
            self.origins[attribute] = self.made[attribute] = text
            self.steps += [step for step in steps if step not in self.steps]
            return
        self.given(attribute, value)

    def explained(self, node: ast.expr, body: list[ast.stmt], around: dict[str, Any]) -> bool:
        """Whether all names of a set-up's expression are known; its own classes get notes."""
        for name in {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {self.own}:
            local = [s for s in body if getattr(s, "name", "") == name]
            if local:
                text = ast.unparse(local[-1])
                if len(text) > MAX_NOTE or len(self.notes) >= MAX_NOTES:
                    return False
                self.notes[name] = text
            elif name in around:
                self.thing(ast.Name(name, ast.Load()), around[name])
            elif not hasattr(builtins, name):
                return False
        return True

    def of_tests(self, value: Any) -> bool:
        """Whether a function or class is one of the tests' own."""
        module = sys.modules.get(str(getattr(value, "__module__", "")))
        path = str(getattr(module, "__file__", "") or "")
        parts = str(getattr(value, "__module__", "")).split(".")
        if any(p.startswith(("test", "_test", "conftest")) for p in parts):
            return parts[0] not in sys.stdlib_module_names
        code = self.view.frame.f_globals.get("__file__", "")
        return bool(path) and path == code

    def note(self, name: str, value: Any, case: Any = None) -> None:
        """Keep the source of a helper of the tests (a method of ``case``), and what it uses."""
        if name in self.notes:
            return
        tree = _tree_of(value)
        text = ast.unparse(tree) if tree is not None else ""
        if not text or len(text) > MAX_NOTE or len(self.notes) >= MAX_NOTES:
            self.unknown.add(name)
            return
        self.notes[name] = text
        assert tree is not None
        around = getattr(inspect.unwrap(value), "__globals__", None)
        around = around or vars(sys.modules.get(value.__module__, builtins))
        bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
                 and not isinstance(n.ctx, ast.Load)}  # fmt: skip
        bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        bound |= {getattr(n, "name", "") for n in ast.walk(tree) if not isinstance(n, ast.alias)}
        for inner in sorted({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - bound):
            found = around.get(inner, self.view.frame.f_locals.get(inner, MISSING))
            if found is MISSING:
                if not hasattr(builtins, inner):
                    self.unknown.add(inner)
            elif plain_callable(found) and not isinstance(found, ModuleType):
                if self.of_tests(found):
                    self.note(inner, found)
            elif not isinstance(found, ModuleType) and literal_of(found) is None:
                self.unknown.add(inner)
            elif not isinstance(found, ModuleType):
                self.notes.setdefault(inner, f"{inner} = {found!r}")
        used = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute))
        for node in used if case is not None else ():
            if isinstance(node.value, ast.Name) and node.value.id == self.own:
                told = ast.unparse(self.attribute(node, False))
                if told != ast.unparse(node):
                    self.notes.setdefault(node.attr, f"{node.attr} = {told}")


def spread(call: ast.Call) -> ast.Call:
    """``f(*[1], **{'a': 2})`` as ``f(1, a=2)``."""
    arguments: list[ast.expr] = []
    for argument in call.args:
        if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.List | ast.Tuple):
            arguments += argument.value.elts
        else:
            arguments.append(argument)
    keywords: list[ast.keyword] = []
    for keyword in call.keywords:
        inner = keyword.value
        if keyword.arg is None and isinstance(inner, ast.Dict):
            names = [k.value if isinstance(k, ast.Constant) else None for k in inner.keys]
            if all(isinstance(n, str) and n.isidentifier() for n in names):
                keywords += [ast.keyword(str(n), v)
                             for n, v in zip(names, inner.values, strict=True)]  # fmt: skip
                continue
        keywords.append(keyword)
    return ast.Call(call.func, arguments, keywords)


def plain_callable(value: Any) -> bool:
    """A function, class or module: its name says what it is."""
    return isinstance(value, type | ModuleType) or hasattr(value, "__qualname__")


def public(module: str, name: str, value: Any) -> str:
    """A callable by the path that users import it from: the shortest one that leads to it."""
    parts = module.split(".")
    for end in range(1, len(parts)):
        outer = ".".join(parts[:end])
        if getattr(sys.modules.get(outer), name, MISSING) is value:
            return f"{outer}.{name}"
    return f"{module}.{name}"


def _tree_of(value: Any) -> ast.Module | None:
    """A function's or class's source, without annotations, decorators and docstrings."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            node.decorator_list = []
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                del node.body[0]
    return tree


def _inlined(node: ast.expr, body: list[ast.stmt]) -> ast.expr:
    """An expression of a set-up with the locals that the set-up made put in."""

    class Put(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            made = [s for s in body if _makes(s, name.id) and s.lineno < node.lineno]
            value = getattr(made[-1], "value", None) if made else None
            return _inlined(value, body) if isinstance(value, ast.expr) else name

    put: ast.expr = Put().visit(copy.deepcopy(node))
    return put


def _makes(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return isinstance(statement.target, ast.Name) and statement.target.id == name
    return isinstance(statement, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == name for t in statement.targets
    )


def _asserted(statement: ast.AST) -> list[ast.AST] | None:
    """The calls that an assertion makes; `None` for what is no assertion."""
    node = getattr(statement, "value", None)
    if isinstance(statement, ast.Assert):
        parts: list[ast.AST] = [statement.test]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2].startswith(
        "assert"
    ):
        parts = [*node.args, *(k.value for k in node.keywords)]
    else:
        return None
    found: list[ast.AST] = []
    while parts:
        part = parts.pop(0)
        pure = isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and hasattr(
            builtins, part.func.id
        )  # fmt: skip
        if isinstance(part, ast.Call) and not pure:
            found.append(part)
        elif not isinstance(part, ast.Lambda):
            parts += ast.iter_child_nodes(part)
    return found


def _touches(node: ast.AST, names: set[str]) -> bool:
    """Whether a statement or call may change one of these: a method called on it, it handed to a
    call, an item or attribute set in it."""
    targets: list[ast.AST] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = [t for t in node.targets if not isinstance(t, ast.Name)]
    elif isinstance(node, ast.AugAssign):
        targets = [node.target]
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
        pure = isinstance(call.func, ast.Name) and hasattr(builtins, call.func.id)
        if not pure:
            targets += [call.func, *call.args, *(k.value for k in call.keywords)]
    for target in targets:
        base = target
        while isinstance(base, ast.Attribute | ast.Subscript | ast.Call | ast.Starred):
            base = base.func if isinstance(base, ast.Call) else base.value
        if isinstance(base, ast.Name) and base.id in names:
            return True
    return False


def literal_of(value: Any) -> ast.expr | None:
    """A short value as source, when the source gives the same value back."""
    if not isinstance(value, str | bytes | int | float | bool | tuple | list | dict | set | None):
        return None
    if re.search(r"/tmp/|\bat 0x", repr(value)):
        return None
    try:
        text = repr(value)
        if len(text) > 100 or ast.literal_eval(text) != value:
            return None
        return ast.parse(text, mode="eval").body
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return None
