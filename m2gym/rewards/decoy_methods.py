"""How decoys of `unittest`'s tests fail: by the methods of `unittest.TestCase` that the tests use.

Code that makes these methods do nothing passes a test, and then its decoy too. Where a class might
have others under the same names, the decoy calls `unittest`'s own; on what is no `TestCase` that is
an error, which proves nothing.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping

from m2gym.core.syntax import parse_python

REFUSED = {
    "assertEqual": "{n}, {m}",
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

PLAIN = "self.{name}({arguments})"
GENUINE = "__import__('unittest').TestCase.{name}(self, {arguments})"
"""How a method is called."""

_BASES = {
    "unittest.TestCase": (None, "unittest", None),
    "TestCase": ("unittest", "TestCase", None),
}
"""A class's base as it is written, and the import that makes it `unittest`'s."""


def methods_of(
    owner: ast.ClassDef | None, function: ast.FunctionDef, tree: ast.Module
) -> dict[str, str]:
    """The methods in `REFUSED` that a test calls on itself → how a decoy calls them: `PLAIN`, or
    `GENUINE` where the test's own might be others. None where equality itself was redefined."""
    if owner is None or "addTypeEqualityFunc" in ast.unparse(tree):
        return {}
    imported = {
        (getattr(node, "module", None), name.name, name.asname)
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    plain = [_BASES.get(ast.unparse(base)) in imported for base in owner.bases] == [True]
    own = {node.name for node in owner.body if isinstance(node, ast.FunctionDef)}
    own |= {n.id for s in owner.body if isinstance(s, ast.Assign) for n in ast.walk(s)
            if isinstance(n, ast.Name)}  # fmt: skip
    called = {_called_on_itself(node) for node in ast.walk(function)}
    return {
        name: PLAIN if plain and name not in own else GENUINE
        for name in sorted(called)
        if name in REFUSED
    }


def _called_on_itself(node: ast.AST) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    return node.func.attr if ast.unparse(node.func.value) == "self" else ""


def refused(methods: Mapping[str, str], rng: random.Random) -> ast.stmt | None:
    """A call of one of the ``methods`` that fails whatever comes; ``None`` without methods."""
    if not methods:
        return None
    first = "".join(rng.choice("abcdefghilmnoprstuv") for _ in range(rng.randrange(3, 8)))
    number = rng.randrange(2, 400)
    values = {"a": first, "b": first + rng.choice("aeiou"), "n": number, "m": number + 3}
    name = rng.choice(list(methods))
    call = methods[name].format(name=name, arguments=REFUSED[name].format(**values))
    return parse_python(call).body[0]


def equality(statement: ast.stmt) -> ast.Call | None:
    """The call in ``self.assertEqual(a, b)``."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return None
    call = statement.value
    plain = not any(isinstance(argument, ast.Starred) for argument in call.args)
    named = ast.unparse(call.func) == "self.assertEqual"
    return call if named and plain and len(call.args) >= 2 else None
