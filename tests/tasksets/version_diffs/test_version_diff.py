"""Version-diff tasks from packages that the tests publish themselves, and from a real one."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import m2gym.rewards  # noqa: F401  (registers the reward functions)
from m2gym.core.errors import DownloadError, InputError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets import version_diff, version_diff_async
from m2gym.tasksets.outcomes.measure import verdicts
from m2gym.tasksets.quality import funnel
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.sdist import PackageRejectedError, files_of
from m2gym.tasksets.swe_repo.recipe import ChangeSpec, load
from m2gym.tasksets.swe_repo.recipe_taskset import build
from m2gym.tasksets.swe_repo.repository import build_repository
from m2gym.tasksets.swe_repo.shipped import recipes
from m2gym.tasksets.version_diffs import version_diff as version_diffs
from m2gym.tasksets.version_diffs.pair import made, moving, open_pair, pair_of
from m2gym.tasksets.version_diffs.pairs import reason_kind, run, shipped, steps
from m2gym.tasksets.version_diffs.ship import UNTOLD, ship
from m2gym.tasksets.version_diffs.split import grouped, joined
from tests.tasksets.conftest import Index, lacking

MakeBox = Callable[[WorkspaceSpec], Workspace]

OLD = "def size(n):\n    return n + 1 if n > 2 else n\n\n\ndef name(n):\n    return n\n"
NEW = OLD.replace("n > 2", "n >= 2").replace("return n\n", "return str(n)\n")
SIZE_TESTS = (
    "import importlib.metadata\n"
    "import pytest\n"
    "from tiny import size\n"
    "@pytest.mark.parametrize('n', [1, 2, 3], ids=['one', 'a b/[x]', 'three'])\n"
    "def test_size(n): assert size(n) == {1: 1, 2: 3, 3: 4}[n]\n"
    "def test_version(): assert importlib.metadata.version('tiny')\n"
)
NAME_TESTS = (
    "import os\n"
    "from tiny import name, other\n"
    "def test_own_file(): os.utime(__file__, (1, 1))\n"
    "def test_name(): assert name(7) == '7'\n"
    "def test_other(): assert other.twice(2) == 4\n"
    "def test_text(): assert name('a') == 'a'\n"
)


def _release(text: str, **files: str) -> dict[str, str]:
    named = {path.replace("__", "/") + ".py": text for path, text in files.items()}
    return {
        "tiny/__init__.py": "from tiny import other\n" + text,
        "tiny/other.py": "def twice(n):\n    return n + n\n",
        "CHANGES.md": "size(2) is mended",
        "tiny.egg-info/PKG-INFO": "Name: tiny",
        **named,
    }


async def test_a_step_of_two_fixes_gives_two_tasks(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    index.add("tiny", "1.0", _release(OLD, tests__test_old="def test_old(): pass\n"))
    tests = {"tests__test_size": SIZE_TESTS, "tests__test_name": NAME_TESTS}
    index.add("tiny", "1.1", _release(NEW, **tests))
    found = await version_diff_async("tiny", "1.0", "1.1", runs=2, cache=wheels)
    assert list(found.recipes) == ["tiny-1.1-1", "tiny-1.1-2"]
    assert found.dropped == {}
    by_name, by_size = found.recipes.values()
    assert by_size.fail_to_pass == ("tests/test_size.py::test_size[a b/[x]]",)
    assert by_name.fail_to_pass == ("tests/test_name.py::test_name",)
    assert by_size.part == (ChangeSpec(path="tiny/__init__.py", hunks=(0,)),)
    assert by_name.part == (ChangeSpec(path="tiny/__init__.py", hunks=(1,)),)
    assert by_size.not_kept == by_name.fail_to_pass
    green = found.green(by_name.green)
    assert "tests/test_name.py::test_text" in green
    assert "tests/test_name.py::test_own_file" not in green, "the verifier's user does not own it"
    built = build(by_size, wheels)
    assert b"n >= 2" in (built.fixed / "tiny/__init__.py").read_bytes()
    assert b"str(n)" not in (built.fixed / "tiny/__init__.py").read_bytes()
    task = found.task("tiny-1.1-2")
    assert "size(2)" in task.instruction
    prepared = found.prepare(task)
    assert await verdicts(prepared, make_box, gold=True, runs=1) == [1.0]
    assert await verdicts(prepared, make_box, gold=False, runs=1) == [0.0]


def test_why_no_task_comes_of_a_pair(index: Index, wheels: Cache, make_box: MakeBox) -> None:
    passing = {"tests__test_old": "def test_old(): pass\n"}
    index.add("tiny", "1.0", _release(OLD, **passing))
    index.add("tiny", "1.1", {**_release(OLD, **passing), "README": "more"})
    index.add("tiny", "1.2", _release(OLD + "X = 1\n", **passing))
    many = "\n".join(f"def test_{n}(): assert tiny.X" for n in range(version_diffs.MAX_FAILING + 1))
    index.add("tiny", "1.3", _release(OLD + "X = 1\n", tests__test_x=f"import tiny\n{many}\n"))
    index.add("tiny", "1.4", _release(OLD + "X = 1\n"))
    index.add("tiny", "1.5", _release(OLD + "X = 2\n", tests__test_old="def test(): assert 0\n"))
    common = {"runs": 1, "cache": wheels}
    for new, reason in {
        "1.1": "the same source",
        "1.2": "no test of the new release fails on the old source",
        "1.3": f"{version_diffs.MAX_FAILING + 1} tests fail on the old source, too many",
        "1.4": "the archive carries no tests",
        "1.5": "no test passes",
    }.items():
        with pytest.raises(PackageRejectedError, match=reason):
            version_diff("tiny", "1.0", new, **common)  # type: ignore[arg-type]
    with pytest.raises(DownloadError, match=r"no release 9.9 of tiny; it lists 1.5, 1.4,"):
        version_diff("tiny", "1.0", "9.9", **common)  # type: ignore[arg-type]


def test_the_tree_lacks_changelog_leftovers_and_the_new_source(index: Index, cache: Cache) -> None:
    old = index.add("tiny", "1.0", {**_release(OLD, tests__t=""), "tiny/gone.py": "x = 1\n"})
    new = index.add("tiny", "1.1", _release(NEW, tests__t=SIZE_TESTS))
    built = build_repository(old, new, (), (), cache)
    shown = {path for path in files_of(built.root) if not path.startswith(".git/")}
    assert shown == {"tiny/__init__.py", "tiny/other.py", "tiny/gone.py", "tests/t.py"}
    assert (built.root / "tiny/__init__.py").read_text().endswith(OLD)
    assert (built.hidden / "tests/t.py").read_text() == SIZE_TESTS
    assert not (built.hidden / "tiny").exists()
    assert built.reference().files == {
        "tiny/__init__.py": b"from tiny import other\n" + NEW.encode(),
        "tiny/gone.py": None,
    }
    part = (ChangeSpec(path="tiny/gone.py"),)
    built = build_repository(old, new, (), (), cache, part=part)
    assert built.reference().files == {"tiny/gone.py": None}


def test_entry_points_are_kept(index: Index, cache: Cache) -> None:
    modern = {"pyproject.toml": "[project.entry-points.group]\nname = 'tiny:size'\n"}
    file = index.add("tiny", "1.0", {**_release(OLD, tests__t=""), **modern})
    new = index.add("tiny", "1.1", _release(NEW, tests__t=""))
    built = build_repository(file, new, (), (), cache)
    [info] = built.dist.iterdir()
    assert (info / "entry_points.txt").read_text() == "[group]\nname = tiny:size\n"


def test_groups_of_tests() -> None:
    assert grouped(["a", "b", "c"], []) == [["a", "b", "c"]]
    assert grouped(["a", "b", "c"], [{"b", "c"}, {"a", "b"}]) == [["a", "b", "c"]]
    assert grouped(["a", "b", "c"], [{"c"}, {"a"}]) == [["a"], ["b"], ["c"]]


def test_pieces_of_one_file_are_joined() -> None:
    one, two = ChangeSpec(path="a", hunks=(2,)), ChangeSpec(path="a", hunks=(0, 1))
    assert joined([one, two]) == (ChangeSpec(path="a", hunks=(0, 1, 2)),)
    assert joined([one, ChangeSpec(path="a"), two]) == (ChangeSpec(path="a"),)


def test_ids_made_from_the_clock_are_left_out() -> None:
    year = time.gmtime().tm_year
    assert moving([f"t[{year}-01-01]", "t[a]", f"t[1{year}]"]) == {f"t[{year}-01-01]"}


def test_when_an_archive_was_made(index: Index, tmp_path: Path) -> None:
    file = index.add("tiny", "1.0", _release(OLD))
    archive = index.root / "tiny" / file.filename
    assert abs(made(archive, file.filename) - time.time()) < 60
    with pytest.raises(PackageRejectedError, match="not a readable archive"):
        made(Path(__file__), "a-1.tar.gz")


def test_a_run_over_many_pairs_goes_on_where_it_was(
    index: Index, wheels: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    index.add("tiny", "1.0", _release(OLD, tests__test_old="def test_old(): pass\n"))
    index.add("tiny", "1.1", _release(NEW, tests__test_old="def test_old(): pass\n"))
    out = tmp_path / "out"
    run([("tiny", "1.0", "9.9"), ("tiny", "1.0", "1.1")], out, wheels)
    assert [path.name for path in out.iterdir()] == ["tiny-1.1.json"]
    outcome = json.loads((out / "tiny-1.1.json").read_text())
    assert outcome["kind"] == "no failing test"
    stamp = (out / "tiny-1.1.json").stat().st_mtime_ns
    run([("tiny", "1.0", "1.1")], out, wheels)
    assert (out / "tiny-1.1.json").stat().st_mtime_ns == stamp


def test_tasks_with_a_statement_are_shipped(
    index: Index, wheels: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    index.add("tiny", "1.0", _release(OLD, tests__test_size="def test_old(): pass\n"))
    index.add("tiny", "1.1", _release(NEW, tests__test_size=SIZE_TESTS))
    out, data = tmp_path / "out", tmp_path / "data"
    run([("tiny", "1.0", "1.1")], out, wheels)
    with pytest.raises(InputError, match=r"1 statements belong .* first 'tiny-9'"):
        ship(out, {"tiny-9": "size(2) is wrong"}, data)
    [recipe] = ship(out, {"tiny-1.1": "size(2) is wrong\n"}, data)
    assert recipe.statement == "size(2) is wrong"
    text = (data / "tasks" / "tiny-version-diff.jsonl").read_text()
    assert load(text, "tiny") == recipe
    green = json.loads((data / "green" / f"{recipe.green}.json").read_text())
    listed = {f"{path}::{name}" for path, names in green.items() for name in names}
    assert set(recipe.fail_to_pass) <= listed
    rows = json.loads((data / "pairs.json").read_text())
    assert rows == [{"package": "tiny", "old": "1.0", "new": "1.1", "parts": 1}]


def test_what_is_shipped_stays_and_what_is_not_has_its_reason(
    index: Index, wheels: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    old = "def test_old(): pass\n"
    index.add("tiny", "1.0", _release(OLD, tests__test_old=old))
    tests = {"tests__test_size": SIZE_TESTS, "tests__test_name": NAME_TESTS}
    index.add("tiny", "1.1", _release(NEW, **tests))
    out, data = tmp_path / "out", tmp_path / "data"
    run([("tiny", "1.0", "1.1")], out, wheels)
    [first] = ship(out, {"tiny-1.1-2": "size(2) is wrong"}, data)
    row = json.loads((data / "pairs.json").read_text())[0]
    assert (row["parts"], row["dropped"]) == (2, {"tiny-1.1-1": UNTOLD})
    accounts = funnel.pairs([first], data)
    assert [a.missing for a in accounts.values() if isinstance(a, funnel.Account)] == [0]
    left = {"tiny-1.1-1": "another reason"}
    assert ship(out, {"tiny-1.1-2": "other words"}, data, left=left) == [first], "it stays"
    row = json.loads((data / "pairs.json").read_text())[0]
    assert row["dropped"] == left
    both = ship(out, {"tiny-1.1-1": "name(7) is wrong"}, data)
    assert [recipe.id for recipe in both] == ["tiny-1.1-1", "tiny-1.1-2"]
    lines = (data / "tasks" / "tiny-version-diff.jsonl").read_text().splitlines()
    assert {load(line, "tiny").id for line in lines} == {"tiny-1.1-1", "tiny-1.1-2"}


async def test_what_is_random_is_left_out_by_measurement(index: Index, wheels: Cache) -> None:
    """Ids made anew in each run."""
    random = (
        "import os\nimport pytest\nfrom tiny import size\n"
        "@pytest.mark.parametrize('n', [os.urandom(8).hex()])\n"
        "def test_ids(n): assert size(2) == 3\n"
    )
    index.add("tiny", "1.0", _release(OLD, tests__test_size="def test_old(): pass\n"))
    index.add("tiny", "1.1", _release(NEW, tests__test_size=SIZE_TESTS, tests__test_r=random))
    found = await version_diff_async("tiny", "1.0", "1.1", cache=wheels)
    [recipe] = found.recipes.values()
    assert recipe.fail_to_pass == ("tests/test_size.py::test_size[a b/[x]]",)
    assert not [test for test in found.green(recipe.green) if "test_ids" in test]


def test_a_pair_that_takes_too_long_says_so(index: Index, wheels: Cache, tmp_path: Path) -> None:
    index.add("tiny", "1.0", _release(OLD, tests__test_old="def test_old(): pass\n"))
    hangs = "import time\ndef test_old(): time.sleep(60)\n"
    index.add("tiny", "1.1", _release(NEW, tests__test_old=hangs))
    run([("tiny", "1.0", "1.1")], tmp_path, wheels, limit=0.5)
    outcome = json.loads((tmp_path / "tiny-1.1.json").read_text())
    assert outcome["kind"] == "takes too long"


def test_steps_between_releases(index: Index) -> None:
    for version in ("1.0", "1.1", "1.2rc1", "1.10"):
        index.add("tiny", version, _release(OLD))
    assert steps("tiny") == [("tiny", "1.1", "1.10"), ("tiny", "1.0", "1.1")]
    with pytest.raises(DownloadError, match="no versions of 'huge'"):
        steps("huge")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("a: no test of the new release fails on the old source", "no failing test"),
        ("a: the archive carries no tests", "no tests in the archive"),
        ("a-1 is not a readable archive", "no usable archive"),
    ],
)
def test_reasons_are_counted_by_kind(reason: str, kind: str) -> None:
    assert reason_kind(reason) == kind


@pytest.fixture(scope="module")
def online() -> None:
    """Skips where the package registry cannot be reached."""
    try:
        steps("inflection")
    except DownloadError as error:
        lacking("registry", f"needs the package registry: {error}")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("package", "old", "new"),
    [("inflection", "0.3.1", "0.4.0"), ("humanize", "4.12.0", "4.12.1")],
)
async def test_a_real_pair_in_one_call(
    online: None, make_box: MakeBox, package: str, old: str, new: str
) -> None:
    """Everything is found out in the one call."""
    found = await version_diff_async(package, old, new)
    assert found.recipes
    for task_id in found.recipes:
        prepared = found.prepare(found.task(task_id))
        assert await verdicts(prepared, make_box, gold=True, runs=1) == [1.0]
        assert await verdicts(prepared, make_box, gold=False, runs=1) == [0.0]


def test_what_a_real_release_needs_is_resolved(online: None, real_cache: Cache) -> None:
    pair = open_pair("humanize", "4.12.0", "4.12.1", real_cache)
    names = {file.project for file in pair.requires if not isinstance(file, str)}
    assert "freezegun" in names
    assert "humanize" not in names
    again = pair_of(pair.old, pair.new, real_cache, requires=pair.requires)
    assert again.prepared.workspace == pair.prepared.workspace
    assert not [p for p in os.listdir(pair.built.root) if p.upper().startswith("CHANGE")]  # noqa: PTH208


def test_the_shipped_pairs_can_be_made_again() -> None:
    listed, statements = shipped()
    assert len(set(listed)) == len(listed)
    assert len(statements) >= 60
    assert {package for package, _, _ in listed} == {recipes()[name].package for name in statements}
    assert all(old != new for _, old, new in listed)
