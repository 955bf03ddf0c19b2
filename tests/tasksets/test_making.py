"""Making tasks from packages that the tests publish themselves."""

from collections.abc import Callable

import m2gym.rewards  # noqa: F401  (registers the reward functions)
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.cache import Cache
from m2gym.tasksets.repository import build_repository
from tests.tasksets.conftest import Index

MakeBox = Callable[[WorkspaceSpec], Workspace]

OLD = "def size(n):\n    return n + 1 if n > 2 else n\n"
NEW = "def size(n):\n    return n + 1 if n >= 2 else n\n"
TESTS = (
    "import importlib.metadata, random\n"
    "import pytest\n"
    "from tiny import size\n"
    "@pytest.mark.parametrize('n', [1, 2, 3], ids=['one', 'a b/[x]', 'three'])\n"
    "def test_size(n): assert size(n) == {1: 1, 2: 3, 3: 4}[n]\n"
    "def test_version(): assert importlib.metadata.version('tiny')\n"
    "def test_flaky(): assert random.SystemRandom().random() < 0.5\n"
)


def _release(text: str, tests: str = TESTS) -> dict[str, str]:
    return {
        "tiny/__init__.py": text,
        "tests/test_size.py": tests,
        "CHANGES.md": "size(2) is mended",
        "tiny.egg-info/PKG-INFO": "Name: tiny",
    }


def test_the_tree_lacks_changelog_leftovers_and_the_new_source(index: Index, cache: Cache) -> None:
    old = index.add("tiny", "1.0", {**_release(OLD, ""), "tiny/gone.py": "x = 1\n"})
    new = index.add("tiny", "1.1", _release(NEW))
    built = build_repository(old, new, (), (), cache)
    files = {p.relative_to(built.root).as_posix() for p in built.root.rglob("*") if p.is_file()}
    shown = {path for path in files if not path.startswith(".git/")}
    assert shown == {"tiny/__init__.py", "tiny/gone.py", "tests/test_size.py"}
    assert (built.root / "tiny/__init__.py").read_text() == OLD
    assert (built.hidden / "tests/test_size.py").read_text() == TESTS
    assert not (built.hidden / "tiny").exists()
    assert built.reference().files == {"tiny/__init__.py": NEW.encode(), "tiny/gone.py": None}


def test_entry_points_are_kept(index: Index, cache: Cache) -> None:
    modern = {"pyproject.toml": "[project.entry-points.group]\nname = 'tiny:size'\n"}
    file = index.add("tiny", "1.0", {**_release(OLD), **modern})
    new = index.add("tiny", "1.1", _release(NEW))
    built = build_repository(file, new, (), (), cache)
    [info] = built.dist.iterdir()
    assert (info / "entry_points.txt").read_text() == "[group]\nname = tiny:size\n"
