"""Injected bugs from packages that the tests publish themselves, good ones and bad ones."""

import importlib
import io
import os
import pkgutil
import socket
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import m2gym
from m2gym import tasksets
from m2gym.core.errors import DownloadError, InputError, UnknownIdError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets import inject, inject_async
from m2gym.tasksets.edits.operators import OPERATORS
from m2gym.tasksets.injected.produce import Source, produce
from m2gym.tasksets.quality.funnel import releases
from m2gym.tasksets.registry import sdist
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.sdist import PackageRejectedError
from m2gym.tasksets.swe_repo import release
from m2gym.tasksets.swe_repo.recipe import load
from m2gym.tasksets.swe_repo.tried import read_funnel
from tests.tasksets.conftest import Index

MakeBox = Callable[[WorkspaceSpec], Workspace]

SOURCE = """\
def grade(points):
    if points < 0:
        raise ValueError("points are never negative")
    return "pass" if points >= 50 else "fail"


def total(items, start=0):
    result = start
    for item in items:
        result = result + item
    return result


def first(items, default=None):
    copy = list(items)
    if not copy:
        return default
    return copy[0]


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)
        return len(self.items)
"""
TESTS = """\
import pytest
from tally import Stack, first, grade, total


@pytest.mark.parametrize("points, expected", [(49, "fail"), (50, "pass"), (51, "pass")])
def test_grade(points, expected):
    assert grade(points) == expected


def test_negative():
    with pytest.raises(ValueError):
        grade(-1)


def test_total():
    assert total([1, 2, 3]) == 6


def test_total_from():
    assert total([1], start=4) == 5


def test_first():
    assert first([7, 8]) == 7


def test_first_of_nothing():
    assert first([], default=3) == 3


def test_push():
    stack = Stack()
    stack.push("a")
    assert stack.push("b") == 2
"""
GOOD = {"tally/__init__.py": SOURCE, "tests/test_tally.py": TESTS}


def test_tasks_come_of_a_package_nobody_tried(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    index.add("tally", "1.0", GOOD)
    index.add("tally", "1.1", {**GOOD, "tests/test_more.py": "def test_more(): assert True\n"})
    taskset = inject("tally", seed=3, n=3, quality=True, cache=wheels)
    assert taskset.verified.keys() == taskset.recipes.keys()
    assert not [v for v in taskset.verified.values() if v.problem or not v.wrong]
    assert len(taskset.recipes) == 3
    assert {r.source.version for r in taskset.recipes.values()} == {"1.1"}
    assert taskset.funnel.tried >= taskset.funnel.kept == 3
    assert taskset.ids("train") == list(taskset.recipes)
    assert "3 tasks" in repr(taskset)
    shown = {frozenset(r.fail_to_pass) for r in taskset.recipes.values()}
    assert len(shown) == 3
    m2gym.register("tally-bugs", tasks=taskset)
    env = m2gym.make("tally-bugs", split="train")
    try:
        text, _ = env.reset(seed=0)
        assert "tally" in text
        assert env.submit()[1] == 0.0
        task = taskset.task(taskset.ids("train")[0])
        reference = taskset.prepare(task).reference
        assert reference is not None
        env.reset(options={"task": task.id})
        [(path, data)] = reference.files.items()
        assert data is not None
        env.step(f"cat > {path} <<'END'\n{data.decode()}END")
        assert env.submit()[1] == 1.0
    finally:
        env.close()


async def test_a_statement_tells_what_was_called_and_what_came(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    index.add("tally", "1.0", GOOD)
    taskset = await inject_async("tally", "1.0", seed=1, n=6, cache=wheels, concurrency=1)
    texts = [recipe.statement for recipe in taskset.recipes.values()]
    assert len(texts) >= 4
    assert len(set(texts)) == len(texts)
    for recipe in taskset.recipes.values():
        called = {"grade", "total", "first", "Stack", "push"}
        assert any(f"{name}(" in recipe.statement for name in called), recipe.statement
        assert recipe.mutations[0].operator not in recipe.statement
        assert "test_tally" not in recipe.statement
        assert recipe.distance == 0


async def test_two_mistakes_at_once(index: Index, wheels: Cache, make_box: MakeBox) -> None:
    index.add("tally", "1.0", GOOD)
    taskset = await inject_async("tally", seed=1, n=1, mutations=2, cache=wheels, split="test")
    [recipe] = taskset.recipes.values()
    assert len(recipe.mutations) == 2
    assert len(recipe.fail_to_pass) >= 2
    assert recipe.split == "test"
    prepared = taskset.prepare(taskset.task(recipe.id))
    assert prepared.reference is not None
    assert prepared.workspace.root is not None
    wrong = (prepared.workspace.root / "tally/__init__.py").read_text()
    assert wrong != SOURCE
    assert prepared.reference.files["tally/__init__.py"] == SOURCE.encode()


async def test_the_same_seed_gives_the_same_tasks(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    index.add("tally", "1.0", GOOD)
    ids = [
        list((await inject_async("tally", seed=seed, n=2, cache=wheels, concurrency=1)).recipes)
        for seed in (5, 5)
    ]
    assert ids[0] == ids[1]


def test_no_module_hides_a_call_of_the_same_name() -> None:
    """Importing a submodule binds its name in the package."""
    names = {m.name for m in pkgutil.iter_modules(tasksets.__path__)}
    assert not names & set(tasksets.__all__)
    assert importlib.import_module(inject.__module__).inject is inject
    assert tasksets.inject is inject


async def test_settings_are_checked(cache: Cache) -> None:
    with pytest.raises(InputError, match="at least 1"):
        await inject_async("tally", n=0, cache=cache)


async def test_an_unknown_package_is_a_download_error(index: Index, wheels: Cache) -> None:
    with pytest.raises(DownloadError, match="lists no files of 'nothing-of-this-name'"):
        await inject_async("nothing-of-this-name", cache=wheels)


async def rejected(cache: Cache, reason: str) -> None:
    with pytest.raises(PackageRejectedError, match=reason):
        await inject_async("tally", cache=cache, n=1)


async def test_a_package_without_tests(index: Index, wheels: Cache) -> None:
    index.add("tally", "1.0", {"tally/__init__.py": SOURCE})
    await rejected(wheels, "carries no tests")


async def test_an_archive_that_is_none(index: Index, wheels: Cache) -> None:
    index.publish("tally", "1.0", b"this is no archive")
    await rejected(wheels, "not a readable archive")


async def test_a_build_that_fails_is_never_run(
    index: Index, wheels: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    setup = f"open({str(ran)!r}, 'w').close()\nraise SystemExit('cannot be built')\n"
    index.add("tally", "1.0", {**GOOD, "setup.py": setup})
    taskset = await inject_async("tally", n=1, cache=wheels)
    assert len(taskset.recipes) == 1
    assert not ran.exists()


async def test_what_cannot_be_imported(index: Index, wheels: Cache, make_box: MakeBox) -> None:
    index.add("tally", "1.0", {**GOOD, "tally/__init__.py": "import nowhere_to_be_found\n"})
    await rejected(wheels, "(?s)no test passes.*nowhere_to_be_found")


async def test_what_needs_a_compiled_dependency(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    index.add("gears", "1.0", {"gears/__init__.py": "", "tests/test_gears.py": ""})
    metadata = "Metadata-Version: 2.1\nName: tally\nVersion: 1.0\nRequires-Dist: gears\n"
    index.add("tally", "1.0", {**GOOD, "PKG-INFO": metadata})
    await rejected(wheels, "cannot be resolved from wheels.*gears")


async def test_tests_that_hang(
    index: Index, wheels: Cache, make_box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "MEASURE_SECONDS", 3.0)
    hang = "import time\ntime.sleep(1000)\ndef test_never(): pass\n"
    index.add("tally", "1.0", {**GOOD, "tests/test_tally.py": hang})
    await rejected(wheels, "no outcome within 3 s")


async def test_tests_that_need_the_network(index: Index, wheels: Cache, make_box: MakeBox) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.5)
    came: list[object] = []

    def listen() -> None:
        try:
            came.append(server.accept())
        except TimeoutError:
            return

    port = server.getsockname()[1]
    text = (
        "import socket\n"
        f"def test_net(): socket.create_connection(('127.0.0.1', {port}), timeout=2)\n"
        "def test_name(): socket.getaddrinfo('localhost.example', 80)\n"
    )
    index.add("tally", "1.0", {**GOOD, "tests/test_tally.py": text})
    thread = threading.Thread(target=listen)
    thread.start()
    await rejected(wheels, "no test passes")
    thread.join()
    server.close()
    assert not came


async def test_tests_that_write_outside(
    index: Index, wheels: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    text = (
        "import os, pathlib\n"
        f"def test_host(): pathlib.Path({str(target)!r}).write_text('x')\n"
        "def test_etc():\n"
        "    for path in ('/etc/m2gym-was-here', '/usr/m2gym-was-here', '/m2gym-was-here'):\n"
        "        try: pathlib.Path(path).write_text('x')\n"
        "        except OSError: pass\n"
    )
    index.add("tally", "1.0", {**GOOD, "tests/test_outside.py": text})
    taskset = await inject_async("tally", n=1, cache=wheels)
    assert len(taskset.recipes) == 1
    here = (str(target), "/etc/m2gym-was-here", "/usr/m2gym-was-here", "/m2gym-was-here")
    assert not [path for path in here if os.path.exists(path)]  # noqa: ASYNC240, PTH110


async def test_flaky_tests_are_left_out(index: Index, wheels: Cache, make_box: MakeBox) -> None:
    flaky = "import os\ndef test_flaky(): assert os.urandom(1)[0] % 2\n" * 1
    many = flaky + "".join(
        f"def test_flaky{n}(): assert os.urandom(1)[0] < 128\n" for n in range(4)
    )
    index.add("tally", "1.0", {**GOOD, "tests/test_flaky.py": many})
    taskset = await inject_async("tally", n=2, cache=wheels)
    green = taskset.green("any")
    assert len([test for test in green if "flaky" in test]) < 5
    assert {"tests/test_tally.py::test_total", "tests/test_tally.py::test_push"} <= set(green)
    for recipe in taskset.recipes.values():
        assert not [test for test in recipe.fail_to_pass if "flaky" in test]


async def test_odd_encodings(index: Index, wheels: Cache, make_box: MakeBox) -> None:
    odd = "# -*- coding: latin-1 -*-\nNAME = 'Müller'\ndef f(a): return a < 1\n".encode("latin-1")
    broken = b"\xff\xfe\x00 this is no text \x00"
    files: dict[str, str | bytes] = {**GOOD, "tally/odd.py": odd, "tally/data.py": broken}
    more = "from tally.odd import NAME, f\ndef test_odd(): assert f(0) and len(NAME) == 6\n"
    index.add("tally", "1.0", {**files, "tests/test_odd.py": more})
    taskset = await inject_async("tally", n=2, cache=wheels)
    assert len(taskset.recipes) == 2
    changed = {m.path for r in taskset.recipes.values() for m in r.mutations}
    assert changed == {"tally/__init__.py"}


async def test_a_huge_file(index: Index, wheels: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdist, "MAX_BYTES", 100_000)
    index.add("tally", "1.0", {**GOOD, "tally/huge.bin": b"\0" * 1_000_000})
    await rejected(wheels, "holds more than")


async def test_a_loop_of_links(index: Index, wheels: Cache) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, target in (("a", "b"), ("b", "a")):
            link = tarfile.TarInfo(f"tally-1.0/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    index.publish("tally", "1.0", buffer.getvalue())
    await rejected(wheels, "is a loop")


async def test_bad_packages_never_stop_the_set(
    index: Index, wheels: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    index.publish("broken", "1.0", b"no archive")
    index.add("untested", "1.0", {"untested/__init__.py": SOURCE})
    index.add("tally", "1.0", GOOD)
    sources = [Source(name, "1.0", 1, 2, 0) for name in ("broken", "absent", "untested", "tally")]
    out = tmp_path / "out"
    funnel = await produce(sources, out, wheels, 2, "auto")
    assert "not a readable archive" in funnel["broken-1.0"]["rejected"]
    assert "carries no tests" in funnel["untested-1.0"]["rejected"]
    assert funnel["tally-1.0"]["kept"] == 2
    assert "absent-1.0" not in funnel, "a failed download is tried again"
    assert len((out / "tasks/tally-injected.jsonl").read_text().splitlines()) == 2
    before = (out / "funnel.json").stat().st_mtime_ns
    await produce(sources[2:], out, wheels, 2, "auto")
    assert (out / "funnel.json").stat().st_mtime_ns == before, "what is done is not done again"
    assert read_funnel(out) == funnel


async def test_a_search_of_some_operators_leaves_the_other_tasks(
    index: Index, wheels: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    index.add("tally", "1.0", GOOD)
    out = tmp_path / "out"
    first = Source("tally", "1.0", 1, 2)
    await produce([first], out, wheels, 2, "auto")
    path, green = out / "tasks/tally-injected.jsonl", out / "green/tally-1.0.json"
    before, listed = path.read_text().splitlines(), green.read_text()
    found = {m.operator for line in before for m in load(line, "tally").mutations}
    others = tuple(name for name in OPERATORS if name not in found)
    more = Source("tally", "1.0", 1, 1, operators=others)
    funnel = await produce([first, more], out, wheels, 2, "auto")
    lines = path.read_text().splitlines()
    assert lines[: len(before)] == before
    assert green.read_text() == listed
    assert len(lines) == len(before) + funnel[more.key]["kept"] == 3
    recipes = [load(line, "tally") for line in lines]
    assert {m.operator for m in recipes[-1].mutations} <= set(others)
    account = releases(recipes, out)["tally-1.0"]
    assert (account.shipped, account.missing) == (3, 0)


async def test_every_candidate_of_two_mistakes_is_accounted_for(
    index: Index, wheels: Cache, make_box: MakeBox
) -> None:
    index.add("tally", "1.0", GOOD)
    taskset = await inject_async("tally", n=1, mutations=2, tries=12, cache=wheels)
    funnel = taskset.funnel
    assert funnel.tried == funnel.kept + sum(funnel.dropped.values())


async def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'removed-copy'"):
        await inject_async("tally", operators=["removed_copy"])
