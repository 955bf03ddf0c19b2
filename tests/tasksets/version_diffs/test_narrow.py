"""A reference change is narrowed to what its tests see, and what is left is minimal."""

from collections.abc import Callable

import m2gym.rewards  # noqa: F401  (registers the reward functions)
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets import version_diff_async
from m2gym.tasksets.outcomes.measure import verdicts
from m2gym.tasksets.quality.patches import LEFT_OUT, Change, wrong_patches
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.swe_repo.recipe import ChangeSpec
from m2gym.tasksets.swe_repo.recipe_taskset import build
from tests.tasksets.conftest import Index

MakeBox = Callable[[WorkspaceSpec], Workspace]

OLD = """\
from tiny import rest

VERSION = "1.0"


def size(n):
    return n


def shown(n):
    return str(n)
"""
NEW = """\
from tiny import rest
from tiny.rest import add

VERSION = "1.1"


def size(n):
    return add(n, 1)


def shown(n):
    return repr(n)
"""
REST = """\
def half(n):
    return n >> 1


X = 1


def add(a, b):
    return a + b
"""
TESTS = """\
from tiny import rest, size, shown
def test_size(): assert size(1) == 2
def test_shown(): assert shown(2) == "2"
def test_half(): assert rest.half(4) == 2
"""


async def test_what_no_test_sees_is_no_part_of_the_reference(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    before = {
        "tiny/__init__.py": OLD,
        "tiny/rest.py": "def half(n):\n    return n // 2\n\n\nX = 1\n",
        "tests/test_old.py": "def test_old(): pass\n",
    }
    after = {
        "tiny/__init__.py": NEW,
        "tiny/rest.py": REST,
        "tiny/unused.py": "x = 1\n",
        "tests/test_size.py": TESTS,
    }
    index.add("tiny", "1.0", before)
    index.add("tiny", "1.1", after)
    found = await version_diff_async("tiny", "1.0", "1.1", runs=1, cache=wheels)
    [recipe] = found.recipes.values()
    assert recipe.part == (
        ChangeSpec(path="tiny/__init__.py", hunks=(0, 2)),
        ChangeSpec(path="tiny/rest.py", hunks=(1,)),
    )
    assert recipe.changed == 2
    built = build(recipe, wheels)
    text = (built.fixed / "tiny/__init__.py").read_text()
    assert text == OLD.replace("import rest\n", "import rest\nfrom tiny.rest import add\n").replace(
        "return n\n", "return add(n, 1)\n"
    )
    change = Change.of(built)
    pieces = [p for p in wrong_patches(recipe, change) if p.label == LEFT_OUT]
    assert len(pieces) == 1
    prepared = found.prepare(found.task(recipe.id))
    assert await verdicts(prepared, make_box, gold=True, runs=1) == [1.0]
