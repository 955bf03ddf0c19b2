"""Decoys never pass for honest code, right or wrong, and leave the real tests alone."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.rewards.decoy_methods import GENUINE, PLAIN, REFUSED, refused
from m2gym.rewards.decoys import contradict, plant
from tests.rewards.conftest import FAIL_TO_PASS, FILE, FIXED, PASS_TO_PASS, TESTS

RECORDER = """
import json, os
seen = {}
def pytest_runtest_logreport(report):
    outcome = ("x" if hasattr(report, "wasxfail") else "") + report.outcome
    if report.when == "call" or outcome != "passed":
        seen[report.nodeid] = outcome
def pytest_sessionfinish():
    with open(os.environ["SEEN"], "w") as out:
        json.dump(seen, out)
"""


def run(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Outcomes of a plain pytest over the files."""
    for path, data in {"recorder.py": RECORDER.encode(), **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    seen = folder / "seen.json"
    tests = [path for path in files if "test_" in path]
    command = ["-m", "pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": str(folder), "SEEN": str(seen)}
    subprocess.run(
        [sys.executable, *command, "-c", os.devnull, f"--rootdir={folder}"],
        cwd=folder,
        env=env,
        capture_output=True,
        check=False,
    )
    return json.loads(seen.read_text())


@pytest.mark.parametrize("source", [FIXED, FIXED.replace("+", "-"), FIXED.replace("*", "**")])
@pytest.mark.parametrize("seed", range(3))
def test_all_decoys_of_a_module_fail_and_the_rest_stays(
    tmp_path: Path, source: str, seed: int
) -> None:
    test = TESTS.encode()
    planted = plant({FILE: test}, FAIL_TO_PASS + PASS_TO_PASS, 100, random.Random(seed))
    originals = set(planted.ids.values())
    assert originals == {
        f"{FILE}::{name}"
        for name in (
            "test_add",
            "test_mul",
            "test_repeat",
            "TestGroup::test_add_zero",
            "Old::test_square",
        )
    }
    plain = run(tmp_path / "plain", {"calc.py": source.encode(), FILE: test})
    mixed = run(tmp_path / "mixed", {"calc.py": source.encode(), **planted.files})
    decoys = {name: o for name, o in mixed.items() if name.split("[")[0] in planted.ids}
    assert set(decoys.values()) == {"failed"}
    assert len(decoys) == len(planted.ids)
    assert {name: o for name, o in mixed.items() if name not in decoys} == plain


def test_seeds_choose_other_tests_names_and_places() -> None:
    ids = FAIL_TO_PASS + PASS_TO_PASS
    made = [plant({FILE: TESTS.encode()}, ids, 2, random.Random(seed)) for seed in range(12)]
    assert len({tuple(p.ids) for p in made}) > 6
    assert len({tuple(sorted(p.ids.values())) for p in made}) > 3
    again = plant({FILE: TESTS.encode()}, ids, 2, random.Random(3))
    assert again == made[3]
    for p in made:
        assert all(name not in TESTS for name in (i.split("::")[-1] for i in p.ids))


def test_names_avoid_words_that_select_tests() -> None:
    ids = FAIL_TO_PASS + PASS_TO_PASS
    avoid = "-k 'not Square' mul add zero repeat group empty nested simple default values twice"
    planted = plant({FILE: TESTS.encode()}, ids, 100, random.Random(0), avoid=avoid)
    for decoy, original in planted.ids.items():
        added = decoy.removeprefix(original).lower()
        assert not any(word in added for word in ("square", "mul", "empty", "twice"))


def test_only_wanted_tests_are_copied() -> None:
    planted = plant({FILE: TESTS.encode()}, [f"{FILE}::test_mul"], 9, random.Random(0))
    assert list(planted.ids.values()) == [f"{FILE}::test_mul"]


@pytest.mark.parametrize(
    "body",
    [
        "@pytest.mark.xfail\ndef test_a():\n    assert 0",
        "def test_a():\n    pytest.skip('no')",
        "def test_a():\n    if 1:\n        return\n    assert 0",
        "async def test_a():\n    assert 0",
        "def test_a():\n    yield 1",
        "@given(st.integers())\ndef test_a(x):\n    assert x",
        "@pytest.mark.parametrize('x', CASES)\ndef test_a(x):\n    assert x",
        "pytestmark = pytest.mark.xfail\ndef test_a():\n    assert 0",
        "@decorated\nclass TestA:\n    def test_a(self):\n        assert 0",
        "def test_a():\n    assert 1\ndef test_a():\n    assert 2",
        "def test_a(:",
        "def test_a():\r\n    assert 1\r\n",
    ],
)
def test_what_cannot_be_turned_around_for_certain_is_passed_over(body: str) -> None:
    ids = ["t.py::test_a", "t.py::TestA::test_a"]
    planted = plant({"t.py": body.encode()}, ids, 5, random.Random(0))
    assert (planted.ids, planted.files) == ({}, {})


def test_a_body_with_effects_is_not_run() -> None:
    source = (
        "import calc\nlog = []\n\n\ndef test_a():\n    calc.activate('fr')\n    assert calc.x\n"
        "\n\ndef test_b():\n    log.append(1)\n    assert log\n"
        "\n\ndef test_c():\n    calc.x = 3\n    assert calc.x\n"
    )
    ids = [f"t.py::test_{c}" for c in "abc"]
    planted = plant({"t.py": source.encode()}, ids, 3, random.Random(0))
    tree = ast.parse(planted.files["t.py"])
    names = {i.split("::")[1] for i in planted.ids}
    copies = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    assert len(copies) == 3
    assert all(len(c.body) == 1 and isinstance(c.body[0], ast.Assert) for c in copies)


def test_files_that_look_at_their_lines_grow_only_at_the_end() -> None:
    source = "def test_a():\n    assert 1\n\n\ndef test_b():\n    assert 'lineno'\n"
    planted = plant({"t.py": source.encode()}, ["t.py::test_a"], 1, random.Random(0))
    assert planted.files["t.py"].decode().startswith(source)


values = st.sampled_from(["1", "2", "'a'", "None", "f(1)", "f('x')", "[f(2)]", "{1: f(3)}"])
claims = st.builds(
    lambda a, op, b, no: f"assert {no}({a} {op} {b})",
    values,
    st.sampled_from(["==", "!=", "in (1,) or 2 ==", "and 3 !="]),
    values,
    st.sampled_from(["", "not "]),
)
statements = st.one_of(
    claims,
    st.builds(lambda v: f"x = {v}", values),
    st.builds(lambda v: f"print({v})", values),
    st.builds(lambda c: f"for i in range(2):\n        {c}", claims),
    st.builds(lambda c: f"try:\n        {c}\n    except Exception:\n        pass", claims),
    st.builds(lambda v: f"assert [y for y in [{v}]], 'why'", values),
    st.just('"""Text."""'),
)
modules = st.lists(st.lists(statements, min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(modules, st.integers(0, 2**32), st.sampled_from([0, 1, "x", None, True]))
def test_generated_decoys_fail_whatever_the_graded_code_returns(
    bodies: list[list[str]], seed: int, answer: object
) -> None:
    source = "\n\n".join(
        f"def test_{n}():\n    " + "\n    ".join(body) for n, body in enumerate(bodies)
    )
    ids = [f"t.py::test_{n}" for n in range(len(bodies))]
    planted = plant({"t.py": source.encode()}, ids, 10, random.Random(seed))
    assert len(planted.ids) == len(bodies)
    space = {"f": lambda value: answer, "print": lambda value: None}
    exec(planted.files["t.py"], space)
    for decoy in planted.ids:
        with pytest.raises(AssertionError):
            space[decoy.split("::")[1]]()


def test_our_own_tests_survive_decoys(tmp_path: Path) -> None:
    """Real test code: this project's, copied and run with as many decoys as they take."""
    paths = sorted((Path(__file__).parents[1] / "core").glob("test_*.py"))
    kept = [p for p in paths if "conftest" not in p.read_text()]
    for path in kept:
        data = path.read_bytes()
        plain = run(tmp_path / "plain" / path.stem, {path.name: data})
        planted = plant({path.name: data}, list(plain), 40, random.Random(1))
        mixed = run(tmp_path / "mixed" / path.stem, {path.name: data, **planted.files})
        decoys = {name: o for name, o in mixed.items() if name.split("[")[0] in planted.ids}
        assert set(decoys.values()) <= {"failed", "error"}, path
        assert {name: o for name, o in mixed.items() if name not in decoys} == plain, path


def test_contradicted_tests_are_failed_by_right_code(tmp_path: Path) -> None:
    tests = (
        "def add(a, b):\n    return a + b\n\n\n"
        "def test_equal():\n    assert add(1, 2) == 3\n\n\n"
        "def test_true():\n    # a word\n    assert add(1, 2) > 2\n\n\n"
        "def test_loop():\n    for n in (1, 2):\n        assert add(n, 0) == n\n\n\n"
        "def test_kept():\n    assert add(1, 1) == 2\n"
    )
    wanted = [f"test_a.py::test_{name}" for name in ("equal", "true", "loop")]
    changed = contradict({"test_a.py": tests.encode(), "b.txt": b"x"}, wanted, random.Random(1))
    assert list(changed) == ["test_a.py"]
    names: dict[str, object] = {}
    exec(changed["test_a.py"], names)
    for name in ("equal", "true", "loop"):
        with pytest.raises(AssertionError):
            names[f"test_{name}"]()  # type: ignore[operator]
    names["test_kept"]()  # type: ignore[operator]
    assert contradict({"test_a.py": tests.encode()}, ["test_a.py::test_no"], random.Random(1)) == {}


@pytest.mark.parametrize("how", [PLAIN, GENUINE])
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_each_method_refuses_what_a_decoy_gives_it(name: str, how: str) -> None:
    for seed in range(5):
        call = refused({name: how}, random.Random(seed))
        assert call is not None
        with pytest.raises(AssertionError):
            exec(ast.unparse(call), {"self": unittest.TestCase()})


OLD = """
import unittest
{more}

class Old({base}):
    {own}
    def test_a(self):
        self.assertIn(1 + 1, [2, 3])

    def test_b(self):
        self.assertEqual(1 + 1, 2)

    def test_c(self):
        number = [1]
        number.append(2)
        self.assertEqual(number, [1, 2])


def test_d():
    assert 1 + 1 == 2
"""


def planted_in(base: str = "unittest.TestCase", own: str = "", more: str = "") -> tuple[str, str]:
    """The file with decoys of three methods, and the decoys alone."""
    text = OLD.format(base=base, own=own, more=more)
    ids = [f"test_a.py::Old::test_{n}" for n in "abc"]
    [changed] = plant({"test_a.py": text.encode()}, ids, 9, random.Random(3)).files.values()
    known = text.splitlines()
    return changed.decode(), "\n".join(x for x in changed.decode().splitlines() if x not in known)


def test_a_decoy_of_unittest_fails_by_the_methods_of_its_test(tmp_path: Path) -> None:
    text, added = planted_in()
    assert "assert " not in added
    assert added.count("self.assertIn(") == 1
    assert added.count("self.assertEqual(") == 2
    outcomes = run(tmp_path, {"test_a.py": text.encode()})
    assert sorted(outcomes.values()) == ["failed"] * 3 + ["passed"] * 4


@pytest.mark.parametrize(
    "other",
    [
        {"base": "Base", "more": "from elsewhere import Base"},
        {"base": "TestCase", "more": "from elsewhere import TestCase"},
        {"own": "assertIn = assertEqual = print"},
    ],
)
def test_where_methods_may_be_others_unittests_own_are_called(other: dict[str, str]) -> None:
    _, added = planted_in(**other)
    assert added.count("__import__('unittest').TestCase.assert") == 3


def test_where_equality_was_redefined_no_method_is_relied_on() -> None:
    _, added = planted_in(own="def setUp(self):\n        self.addTypeEqualityFunc(int, print)")
    assert added.count("assert ") == 3


def test_a_class_with_silent_methods_of_its_own_forges_nothing(tmp_path: Path) -> None:
    text, _ = planted_in(own="assertIn = assertEqual = lambda *given: None")
    outcomes = run(tmp_path, {"test_a.py": text.encode()})
    assert sorted(outcomes.values()) == ["failed"] * 3 + ["passed"] * 4


def test_both_ways_to_fail_are_planted() -> None:
    text = OLD.format(base="unittest.TestCase", own="", more="")
    ids = [f"test_a.py::{n}" for n in ("Old::test_a", "Old::test_b", "Old::test_c", "test_d")]
    for seed in range(6):
        planted = plant({"test_a.py": text.encode()}, ids, 2, random.Random(seed))
        assert "test_a.py::test_d" in planted.ids.values()
        assert len(planted.ids) == 2
