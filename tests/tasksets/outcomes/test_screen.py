"""The forked pytest, and what it tells about failures, over a package the tests make."""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.outcomes.screen import Screen
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.statements.describe import describe
from m2gym.tasksets.swe_repo.release import release_of
from tests.tasksets.conftest import Index

MakeBox = Callable[[WorkspaceSpec], Workspace]

SOURCE = b"""\
def double(n):
    return helper(n) * 2

def helper(n):
    return n

def check(n):
    if n < 0:
        raise ValueError("negative")

def table(n):
    return {"rows": [{"n": n, "square": n * n, "text": "x" * 60}], "name": "squares of numbers"}

class Box:
    def __init__(self, size=3):
        self.size, self.items = size, []

    def put(self, item):
        self.items.append(item)

    def __len__(self):
        return len(self.items)

def keeper(box):
    def keep(item):
        box.put(item)
        return item
    keep.clear = box.items.clear
    return keep
"""
TESTS = """\
import os, time, unittest
import pytest
from tiny import Box, check, double, helper, keeper, table

@pytest.fixture
def box(): return Box()

@pytest.mark.parametrize("n", [2, 5])
def test_double(n): assert double(n) == 2 * n
def test_result():
    result = double(3)
    assert result == 6
def test_check():
    with pytest.raises(ValueError):
        check(-1)
def test_table():
    assert table(4) == {
        "rows": [{"n": 4, "square": 16, "text": "x" * 60}], "name": "squares of numbers"
    }
def test_put():
    box = Box(size=2)
    box.put("a")
    box.put("b")
    assert len(box) == 2
def test_fixture(box): assert box.size == 3
def twice(function, n):
    \'\'\'Calls it on its own result.\'\'\'
    return function(function(n))
def test_helper(): assert twice(double, 1) == 4
def test_alias():
    box = Box()
    keep = keeper(box)
    assert keep("a") == "a"
    keep.clear()
    assert len(box) == 0
def test_loop():
    box = Box()
    for n in range(4):
        box.put(n)
    assert len(box) == 4
def test_folder(tmp_path):
    assert helper(str(tmp_path)) == str(tmp_path)
class CaseTest(unittest.TestCase):
    def setUp(self):
        part = Box(size=7)
        self.box = Box(size=part.size)
        self.box.put("first")
    def test_set_up(self): self.assertEqual(len(self.box), 1)
    def test_equal(self): self.assertEqual(14, double(7))
    def test_raises(self):
        with self.assertRaises(ValueError):
            check(-2)
def test_switch():
    if os.path.exists("hang"): time.sleep(60)
    if os.path.exists("die"): os.kill(os.getpid(), 9)
"""
FILES = {"tiny/__init__.py": SOURCE.decode(), "tests/test_tiny.py": TESTS}
TEST = ["tests/test_tiny.py"]


@pytest_asyncio.fixture
async def screen(index: Index, wheels: Cache, make_box: MakeBox) -> AsyncIterator[Screen]:
    release = release_of(index.add("tiny", "1.0", FILES), wheels)
    async with Screen(release.prepared, make_box) as made:
        yield made


def _name(test: str) -> str:
    return f"tests/test_tiny.py::{test}"


async def test_answers_and_restored_files(screen: Screen) -> None:
    clean = await screen.ask({}, TEST)
    assert clean.whole
    assert set(clean.outcomes.values()) == {"passed"}
    wrong = {"tiny/__init__.py": SOURCE.replace(b"* 2", b"* 3"), "extra/file.txt": b"x"}
    answer = await screen.ask(wrong, TEST)
    lost = {test for test, outcome in answer.outcomes.items() if outcome == "failed"}
    tests = ("double[2]", "double[5]", "result", "helper")
    names = [*(f"test_{test}" for test in tests), "CaseTest::test_equal"]
    assert lost == set(map(_name, names))
    only = await screen.ask(wrong, TEST, only=[_name("test_double[5]")])
    assert dict(only.outcomes) == {_name("test_double[5]"): "failed"}
    stopped = await screen.ask(wrong, TEST, most=1)
    assert len(stopped.outcomes) < len(answer.outcomes)
    assert (await screen.ask({}, TEST)).outcomes == clean.outcomes


async def test_hanging_and_dying_tests_are_answered(screen: Screen) -> None:
    hang = await screen.ask({"hang": b""}, TEST, timeout=0.5)
    assert hang.outcomes[_name("test_switch")] == "timeout"
    late = await screen.ask({"hang": b""}, TEST, budget=3.0)
    assert late.late
    assert not late.whole
    died = await screen.ask({"die": b""}, TEST)
    assert died.died
    assert (await screen.ask({}, TEST)).outcomes[_name("test_switch")] == "passed"


async def test_a_trace_tells_functions_and_depths(screen: Screen) -> None:
    answer = await screen.ask({}, TEST, trace=True)
    line = {name: SOURCE.decode().split("\n").index(f"def {name}(n):") + 1
            for name in ("double", "helper", "check")}  # fmt: skip
    ran = {answer.functions[number][1]: depth for number, depth in answer.ran[_name("test_result")]}
    assert ran[line["double"]] == 0
    assert ran[line["helper"]] == 1
    assert line["check"] not in ran


@pytest.mark.parametrize(
    ("old", "new", "test", "said"),
    [
        (b"* 2", b"* 3", "test_double[5]", ["`double(5)`", "`15`", "`10`"]),
        (b"* 2", b"* 3", "test_result", ["`double(3)`", "`9`", "`6`"]),
        (b"* 2", b"* 3", "CaseTest::test_equal", ["`double(7)`", "`21`", "`14`"]),
        (b"n < 0", b"n > 0", "test_check", ["`check(-1)`", "`ValueError`"]),
        (b"n < 0", b"n > 0", "CaseTest::test_raises", ["`check(-2)`", "`ValueError`"]),
        (b"ValueError", b"KeyError", "test_check", ["`check(-1)`", "KeyError", "`ValueError`"]),
        (b"n * n", b"n + n", "test_table", ["`table(4)`", "`['rows'][0]['square']`", "`8`"]),
        (b"return n\n", b"return n.x\n", "test_result", ["`double(3)` raises", "AttributeError"]),
        (
            b"self.items.append(item)",
            b"self.items = [item]",
            "test_put",
            ["`box = Box(size=2)`", "`box.put('a')` and `box.put('b')`", "`len(box)`", "`1`"],
        ),
        (
            b"* 2",
            b"* 3",
            "test_helper",
            ["`twice(double, 1)`", "`9`", "def twice(function, n):\n    return function("],
        ),
        (
            b"box.items.clear",
            b"list",
            "test_alias",
            [
                "`box = Box()`",
                "`keep = keeper(box)`",
                "`keep('a')`",
                "`keep.clear()`",
                "`len(box)`",
            ],
        ),
        (
            b"return len(self.items)",
            b"return 0",
            "CaseTest::test_set_up",
            ["`box = Box(size=Box(size=7).size)`", "`box.put('first')`", "`len(box)`", "`1`"],
        ),
        (b"size=3", b"size=4", "test_fixture", ["a `Box` as `box`", "`box.size`", "`4`", "`3`"]),
    ],
)
async def test_failures_are_told(
    screen: Screen, old: bytes, new: bytes, test: str, said: list[str]
) -> None:
    assert SOURCE.count(old) >= 1
    files = {"tiny/__init__.py": SOURCE.replace(old, new, 1)}
    answer = await screen.ask(files, TEST, only=[_name(test)], explain=True)
    text = describe("tiny", answer.facts)
    assert text is not None, answer.facts
    for part in said:
        assert part in text, text


@pytest.mark.parametrize(
    ("old", "new", "test"),
    [
        (b"return len(self.items)", b"return 0", "test_loop"),
        (b"    return n\n", b"    return n * 2\n", "test_folder"),
    ],
    ids=["what a loop did", "a folder of the day"],
)
async def test_what_cannot_be_told_is_not(
    screen: Screen, old: bytes, new: bytes, test: str
) -> None:
    files = {"tiny/__init__.py": SOURCE.replace(old, new, 1)}
    answer = await screen.ask(files, TEST, only=[_name(test)], explain=True)
    assert answer.outcomes[_name(test)] == "failed"
    text = describe("tiny", answer.facts)
    assert text is None
