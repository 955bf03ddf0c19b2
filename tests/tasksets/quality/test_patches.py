import ast
import random
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from m2gym.tasksets.edits.rewrite import KINDS, rewrite
from m2gym.tasksets.edits.slips import slips
from m2gym.tasksets.quality.patches import LEFT_OUT, Change, good_patches, wrong_patches
from m2gym.tasksets.registry.fetch import RegistryFile
from m2gym.tasksets.swe_repo.recipe import MutationSpec, Recipe

STDLIB = Path(sysconfig.get_path("stdlib"))
FIXED = b'''\
def low(a, b, c):
    """Text
      of two lines."""
    if a < b:
        return min(a,
                   c)
    else:
        return max(b, c)


def high(a):
    return a > 1
'''
BROKEN = FIXED.replace(b"a < b", b"a <= b")
FILE = RegistryFile(project="p", version="1", filename="p-1.tar.gz", sha256="0" * 64)


def _recipe(*mutations: MutationSpec) -> Recipe:
    return Recipe(
        id="p-1-abc",
        kind="injected-bug" if mutations else "version-diff",
        split="train",
        package="p",
        source=FILE,
        mutations=mutations,
        statement="s",
        fail_to_pass=("t.py::t",),
        green="p-1",
        artifacts=("p.py",),
        changed=1,
        seconds=1,
    )


MISTAKE = MutationSpec(operator="comparison", path="p.py", place=0, seed=0)


def test_wrong_patches_differ_from_the_tree_that_is_mended_and_from_the_mend() -> None:
    change = Change({"p.py": BROKEN}, {"p.py": FIXED})
    found = wrong_patches(_recipe(MISTAKE), change, most=20)
    texts = [patch.files["p.py"] for patch in found]
    assert len(set(texts)) == len(texts) >= 4
    labels = [patch.label for patch in found]
    assert set(labels) == {"same-place", "nearby", "slip"}
    assert set(labels[labels.index("slip") :]) == {"slip"}, "the finest mistakes come last"
    assert BROKEN not in texts
    assert FIXED not in texts
    assert FIXED.replace(b"a < b", b"a > b") in texts
    for text in texts:
        assert text is not None
        assert text.endswith(b"def high(a):\n    return a > 1\n"), "only the mended function"
    assert wrong_patches(_recipe(MISTAKE), change) == wrong_patches(_recipe(MISTAKE), change)


def test_a_mend_of_two_mistakes_with_one_left() -> None:
    both = BROKEN.replace(b"a > 1", b"a >= 1")
    other = MISTAKE.model_copy(update={"place": 1})
    change = Change({"p.py": both}, {"p.py": FIXED})
    found = wrong_patches(_recipe(MISTAKE, other), change, most=30)
    partial = [patch.files["p.py"] for patch in found if patch.label == "partial"]
    assert sorted(filter(None, partial)) == sorted(
        [BROKEN, FIXED.replace(b"a > 1", b"a >= 1")]
    ) or set(partial) <= {patch.files["p.py"] for patch in found}


def test_a_part_left_out_of_a_step() -> None:
    old = {"p.py": BROKEN.replace(b"a > 1", b"a"), "q.py": None}
    change = Change(old, {"p.py": FIXED, "q.py": b"x = 1\n"})
    found = wrong_patches(_recipe(), change, most=30)
    [left] = [p.files for p in found if p.label == LEFT_OUT]
    [(path, data)] = left.items()
    assert data == old[path] or data in (BROKEN, FIXED.replace(b"a > 1", b"a"))
    assert {patch.label for patch in found} == {LEFT_OUT, "nearby", "slip"}


def test_good_patches_mean_the_same() -> None:
    change = Change({"p.py": BROKEN}, {"p.py": FIXED})
    [first] = good_patches(change)
    assert first.label == "restructured"
    found = good_patches(change, most=9)
    assert [patch.label for patch in found] == ["restructured", "branched"]
    for patch in found:
        text = patch.files["p.py"]
        assert text is not None
        scope, plain = _run(text), _run(FIXED)
        for _ in range(50):
            numbers = [random.randrange(4) for _ in range(3)]
            assert scope["low"](*numbers) == plain["low"](*numbers)
        assert scope["low"].__doc__ == plain["low"].__doc__


def _run(text: bytes) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(compile(text, "p", "exec"), scope)
    return scope


TABLE = b'''\
import re

PATTERN = re.compile(r"(passer)s?by$")  # noqa
WORDS = {
    "DIV": 1,
    "MOD": (2, b"xy"),
}


class Kind:
    NAMES = ["ab", "c"]; other = 3
    """Not a table."""
    LEVEL: int = 12
'''


def test_tables_outside_of_functions_are_written_in_another_way_and_hold_the_same() -> None:
    text = rewrite(TABLE, range(1, 20), "respelled")
    assert text is not None
    assert b'"by$"' not in text
    assert b"dict([" in text
    new, old = _run(text), _run(TABLE)
    assert (new["PATTERN"], new["WORDS"]) == (old["PATTERN"], old["WORDS"])
    assert list(new["WORDS"]) == list(old["WORDS"])
    assert vars(new["Kind"])["NAMES"] == ["ab", "c"]
    assert b'NAMES = ["ab", "c"]; other = 3' in text, "a line of two statements stays"
    shadowed = b"def dict(x):\n    return 1\nW = {1: 2}\n"
    assert rewrite(shadowed, [3], "respelled") is None, "its constructor is another function"
    assert rewrite(b"x = 1\n", [1], "respelled") is None


TABBED = b"class A:\n\tdef f(self, n):\n\t\tif n and self:\n\t\t\treturn 1\n\t\treturn n\n"


@pytest.mark.parametrize("name", ["restructured", "negated", "branched"])
def test_code_indented_with_tabs_is_rewritten(name: str) -> None:
    text = rewrite(TABBED + b"\n\tdef g(self):\n\t\treturn 2\n", [4], name)
    assert text is not None
    made = _run(text)["A"]()
    assert (made.f(3), made.f(0), made.g()) == (1, 0, 2)


def test_locals_are_renamed_and_names_of_others_are_not() -> None:
    source = b"""\
item = 5
def f(xs, key=item):
    total = 0
    for x in xs:
        total += x
    def inner():
        seen = total
        return seen
    squares = [item * item for item in xs if item is not None]
    return total, inner(), squares, key, item
"""
    text = rewrite(source, [4], "renamed")
    assert text is not None
    assert b"total_1" in text
    assert _run(text)["f"]([1, 2]) == _run(source)["f"]([1, 2]) == (3, 3, [1, 4], 5, 5)
    loop = rewrite(source, [4], "looped")
    assert loop is not None
    assert b"append" in loop
    assert _run(loop)["f"]([1, 2]) == (3, 3, [1, 4], 5, 5)


def test_slips_reach_what_no_operator_does() -> None:
    source = b"class A:\n    def f(self):\n        return g(self.lists)\n\n    x = h(self.other)\n"
    texts = slips(source, {3})
    lines = {text.splitlines()[2].strip() for text in texts}
    assert {b"return self.lists", b"return g(self.other)", b"return g(None)"} <= lines
    assert all(text.splitlines()[:2] == source.splitlines()[:2] for text in texts)
    table = slips(b'WORDS = ["DIV", r"(a)\\1b$", f"<{x}>", 7]\n', {1})
    assert b'WORDS = ["DI", r"(a)\\1b$", f"<{x}>", 7]\n' in table
    assert b'WORDS = ["DIV", r"(a)\\1$", f"<{x}>", 7]\n' in table
    assert b'WORDS = ["DIV", r"(a)\\1b$", f"{x}>", 7]\n' in table
    assert b'WORDS = ["DIV", r"(a)\\1b$", f"<{x}>", 8]\n' in table
    assert slips(b'def f(a: "Text") -> "Text":\n    """Doc."""\n', {1, 2}) == []


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("module", ["textwrap.py", "heapq.py", "cmd.py", "difflib.py"])
def test_rewritten_library_code_parses_and_keeps_its_docstrings(module: str, name: str) -> None:
    source = (STDLIB / module).read_bytes()
    text = rewrite(source, range(1, source.count(b"\n") + 2), name)
    assert text is not None
    assert text != source
    old, new = ast.parse(source), ast.parse(text)
    assert _docstrings(old) == _docstrings(new)


def _docstrings(tree: ast.Module) -> list[str | None]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [ast.get_docstring(n, clean=False) for n in ast.walk(tree) if isinstance(n, kinds)]


def test_functions_that_look_at_their_locals_are_left_alone() -> None:
    assert rewrite(b"def f(a):\n    return locals()\n", [1], "restructured") is None
    inner = b"def f():\n    locals()\n    def g():\n        return 1 + 1\n    return g\n"
    text = rewrite(inner, [4], "restructured")
    assert text is not None
    assert b"    return g\n" in text, "one inside of them is not"
    assert _run(text)["f"]()() == 2
    assert rewrite(b"def f(vars):\n    return dir(vars)\n", [1], "restructured") is not None
    assert rewrite(b"x = 1\n", [1], "restructured") is None
