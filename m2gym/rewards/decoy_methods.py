"""How decoys of `unittest`'s tests fail: by the methods of `unittest.TestCase` that the tests use.

Code that makes these methods do nothing passes a test, and then its decoy too.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence

from m2gym.core.syntax import parse_python

REFUSED = {
    "assertEqual": "'{a}', '{b}'",
    "assertNotEqual": "'{a}', '{a}'",
    "assertTrue": "'{a}' == '{b}'",
    "assertFalse": "'{a}' != '{b}'",
    "assertIn": "'{a}', ['{b}']",
    "assertNotIn": "'{a}', ['{a}']",
    "assertIs": "'{a}', None",
    "assertIsNone": "'{a}'",
    "assertIsNotNone": "None",
    "assertIsInstance": "'{a}', dict",
    "assertGreater": "{n}, {m}",
    "assertGreaterEqual": "{n}, {m}",
    "assertLess": "{m}, {n}",
    "assertLessEqual": "{m}, {n}",
    "assertAlmostEqual": "{n}, {m}",
    "assertListEqual": "['{a}'], ['{b}']",
    "assertTupleEqual": "('{a}',), ('{b}',)",
    "assertDictEqual": "{{'{a}': {n}}}, {{'{a}': {m}}}",
    "assertSetEqual": "{{'{a}'}}, {{'{b}'}}",
    "assertSequenceEqual": "['{a}'], ['{b}']",
    "assertCountEqual": "['{a}'], ['{b}']",
    "assertMultiLineEqual": "'{a}', '{b}'",
    "assertRegex": "'{a}', '{b}'",
}
"""Methods of `unittest.TestCase`, and arguments that each of them refuses: n < m, a != b."""

_BASES = {
    "unittest.TestCase": (None, "unittest", None),
    "TestCase": ("unittest", "TestCase", None),
}
"""A class's base as it is written, and the import that makes it `unittest`'s."""


def methods_of(
    owner: ast.ClassDef | None, function: ast.FunctionDef, tree: ast.Module
) -> list[str]:
    """The methods in `REFUSED` that a test calls on itself; none where its class is no plain
    `unittest.TestCase`, so that they might be others."""
    if owner is None or len(owner.bases) != 1 or "addTypeEqualityFunc" in ast.unparse(owner):
        return []
    imported = {
        (getattr(node, "module", None), name.name, name.asname)
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    if _BASES.get(ast.unparse(owner.bases[0])) not in imported:
        return []
    own = {node.name for node in owner.body if isinstance(node, ast.FunctionDef)}
    own |= {n.id for s in owner.body if isinstance(s, ast.Assign) for n in ast.walk(s)
            if isinstance(n, ast.Name)}  # fmt: skip
    called = (_called_on_itself(node) for node in ast.walk(function))
    return sorted({name for name in called if name in REFUSED and name not in own})


def _called_on_itself(node: ast.AST) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    return node.func.attr if ast.unparse(node.func.value) == "self" else ""


def refused(methods: Sequence[str], rng: random.Random) -> ast.stmt | None:
    """A call of one of the ``methods`` that fails whatever comes; ``None`` without methods."""
    if not methods:
        return None
    first = "".join(rng.choice("abcdefghilmnoprstuv") for _ in range(rng.randrange(3, 8)))
    number = rng.randrange(2, 400)
    values = {"a": first, "b": first + rng.choice("aeiou"), "n": number, "m": number + 3}
    name = rng.choice(methods)
    return parse_python(f"self.{name}({REFUSED[name].format(**values)})").body[0]


def equality(statement: ast.stmt) -> ast.Call | None:
    """The call in ``self.assertEqual(a, b)``."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return None
    call = statement.value
    plain = not any(isinstance(argument, ast.Starred) for argument in call.args)
    named = ast.unparse(call.func) == "self.assertEqual"
    return call if named and plain and len(call.args) >= 2 else None
