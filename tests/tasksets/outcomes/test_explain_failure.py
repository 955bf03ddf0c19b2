"""What is read from the frame of a failing test: real functions fail, and are looked at."""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m2gym.tasksets.outcomes.explain_failure import explain
from m2gym.tasksets.statements.describe import describe, is_lacking

PACKAGE = {
    "__init__.py": "from toys.inner import Toy, price\n",
    "inner.py": (
        "class Toy:\n"
        "    def __init__(self, name): self.name = name\n"
        "    def cost(self, n): return n * 3\n"
        "def price(n):\n"
        "    if n < 0: raise KeyError('negative')\n"
        "    return n + 1\n"
    ),
}
HEAD = "import unittest\nimport pytest\nimport toys\nfrom toys import Toy, price\n"


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the body of a test in a file of its own; the facts of its failure."""
    (tmp_path / "toys").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "toys" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*lines: str, before: str = "") -> dict[str, Any]:
        path = tmp_path / f"test_toys_{len(list(tmp_path.iterdir()))}.py"
        body = "\n".join(f"        {line}" for line in lines)
        head = f"{HEAD}{before}\nclass TestToys(unittest.TestCase):\n    toy_class = Toy\n"
        path.write_text(f"{head}    def test_it(self):\n{body}\n")
        spec = importlib.util.spec_from_file_location("test_toys", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "test_toys", module)
        spec.loader.exec_module(module)
        item = types.SimpleNamespace(path=path, name="test_it", originalname="test_it")
        try:
            module.TestToys("test_it").test_it()
        except BaseException as error:
            return explain(item, error, ["toys"])
        raise AssertionError("the test passes")

    yield run  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


Run = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("self.assertRaises(ValueError, price, -1)", "where `ValueError` is expected"),
        ("self.assertRaises(ValueError, lambda: price(2))", "`ValueError`"),
        ("pytest.raises(ValueError, price, 2)", "`ValueError`"),
        ("self.assertIsInstance(price(2), str)", "is false, where it should be true"),
        ("self.assertNotIsInstance(price(2), int)", "is true, where it should be false"),
        ("self.assertAlmostEqual(price(2), 2.5)", "`2.5`"),
        ("assert price(2) in [4, 5]", "one of `[4, 5]` is expected"),
        ("expected = [4, 5]\n        assert price(2) in expected", "`[4, 5]` is expected"),
        ("assert price(2) not in {3}", "just what it must not be"),
        ("assert 7 in [price(2)]", "must contain `7`"),
    ],
)
def test_kinds_of_assertions(seen: Run, line: str, said: str) -> None:
    text = describe("toys", {"t": seen(line)})
    assert text is not None
    assert said in text
    assert "price(" in text


def test_a_class_is_named_by_the_path_users_import_it_from(seen: Run) -> None:
    facts = seen("toy = self.toy_class('bear')", "assert toy.cost(2) == 7")
    text = describe("toys", {"t": facts})
    assert text is not None
    assert "toys.Toy('bear')" in text
    assert "inner" not in text


def test_where_the_test_was_and_what_it_was_given(seen: Run) -> None:
    before = "def check(value):\n    assert value == 1\n"
    facts = seen("twice = price(2)", "check(twice)", before=before)
    assert facts["deep"] is True
    assert facts["line"] == len((HEAD + before).splitlines()) + 6
    facts = seen("assert price(1) == 1")
    assert (facts["deep"], facts["raw"]) == (False, "price(1)")


@pytest.mark.parametrize(
    ("line", "lacking"),
    [
        ("toys.refund(1)", True),
        ("price(1, tax=2)", True),
        ("Toy('bear').name(1)", True),
        ("price(None)", False),
        ("price(-1)", False),
        ("assert price(1) == 1", False),
    ],
)
def test_what_is_not_there_yet_is_told_from_what_is_wrong(
    seen: Run, line: str, lacking: bool
) -> None:
    assert is_lacking(seen(line)) is lacking
