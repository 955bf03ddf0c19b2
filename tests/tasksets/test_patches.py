import ast
import random
import sysconfig
from pathlib import Path

import pytest

from m2gym.tasksets.fetch import RegistryFile
from m2gym.tasksets.patches import LEFT_OUT, Change, good_patches, wrong_patches
from m2gym.tasksets.recipe import MutationSpec, Recipe
from m2gym.tasksets.rewrite import REWRITES, rewrite

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
    assert {patch.label for patch in found} == {"same-place", "nearby"}
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
    assert {patch.label for patch in found} == {LEFT_OUT, "nearby"}


def test_good_patches_mean_the_same() -> None:
    change = Change({"p.py": BROKEN}, {"p.py": FIXED})
    found = good_patches(change)
    assert {patch.label for patch in found} == set(REWRITES)
    for patch in found:
        text = patch.files["p.py"]
        assert text is not None
        scope: dict[str, object] = {}
        exec(compile(text, "p", "exec"), scope)
        plain: dict[str, object] = {}
        exec(compile(FIXED, "p", "exec"), plain)
        for _ in range(50):
            numbers = [random.randrange(4) for _ in range(3)]
            assert scope["low"](*numbers) == plain["low"](*numbers)  # type: ignore[operator]
        assert scope["low"].__doc__ == plain["low"].__doc__


@pytest.mark.parametrize("name", sorted(REWRITES))
@pytest.mark.parametrize("module", ["textwrap.py", "heapq.py", "shlex.py", "bisect.py", "cmd.py"])
def test_rewritten_library_code_parses_and_keeps_its_docstrings(module: str, name: str) -> None:
    source = (STDLIB / module).read_bytes()
    text = rewrite(source, range(1, source.count(b"\n") + 2), name)
    assert text is not None
    old, new = ast.parse(source), ast.parse(text)
    assert _docstrings(old) == _docstrings(new)


def _docstrings(tree: ast.Module) -> list[str | None]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [ast.get_docstring(n, clean=False) for n in ast.walk(tree) if isinstance(n, kinds)]


def test_functions_that_look_at_their_locals_are_left_alone() -> None:
    assert rewrite(b"def f(a):\n    return locals()\n", [1], "restructured") is None
    assert rewrite(b"x = 1\n", [1], "reformatted") is None
