"""The runner that measures releases, and the warm one: a test that hangs ends, and only it."""

from collections.abc import Callable

import m2gym.rewards  # noqa: F401  (registers the reward functions)
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.outcomes.measure import run_once
from m2gym.tasksets.outcomes.screen import Screen
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.swe_repo.release import release_of
from tests.tasksets.conftest import Index

MakeBox = Callable[[WorkspaceSpec], Workspace]

SLOW_TO_TELL = """\
import time

class Slow:
    def __repr__(self):
        time.sleep(3)
        return "slow"

def test_hangs():
    thing = Slow()
    time.sleep(60)

def test_fails_and_is_slow_to_tell():
    assert Slow() == 1

def test_passes(): pass
"""
EXPECTED = {"test_hangs": "failed", "test_fails_and_is_slow_to_tell": "failed",
            "test_passes": "passed"}  # fmt: skip


async def test_an_alarm_ends_a_test_and_never_the_run(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    files = {"tiny.py": "x = 1\n", "tests/test_slow.py": SLOW_TO_TELL, "pytest.ini": "[pytest]\n"}
    release = release_of(index.add("tiny", "1.0", files), wheels)
    tests = release.built.test_paths()
    command = ("--showlocals",)
    seen = await run_once(release.prepared, tests, command, make_box, fixed=False, timeout=1)
    assert {name.partition("::")[2]: o for name, o in seen.tests.items()} == EXPECTED
    async with Screen(release.prepared, make_box, command) as screen:
        answer = await screen.ask({}, tests, timeout=1)
    assert answer.whole
    assert answer.outcomes["tests/test_slow.py::test_hangs"] == "timeout"
    assert answer.outcomes["tests/test_slow.py::test_passes"] == "passed"


async def test_a_pytest_that_cannot_start_says_why(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    files = {"tiny.py": "x = 1\n", "tests/test_a.py": "def test_a(): pass\n"}
    release = release_of(index.add("tiny", "1.0", files), wheels)
    seen = await run_once(release.prepared, ["tests"], ("--odd",), make_box, fixed=False)
    assert not seen.tests
    assert "unrecognized arguments: --odd" in seen.messages[""]
