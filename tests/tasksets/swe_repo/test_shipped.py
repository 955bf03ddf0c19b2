import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import m2gym.rewards  # noqa: F401  (registers the reward functions)
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import PreparedTask, WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.outcomes.measure import verdicts
from m2gym.tasksets.quality.grader import digest_of
from m2gym.tasksets.quality.patches import Change
from m2gym.tasksets.quality.verified import read_state
from m2gym.tasksets.registry import site
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.pinned import pinned
from m2gym.tasksets.registry.sdist import files_of, is_changelog
from m2gym.tasksets.swe_repo.recipe import green_tests, load
from m2gym.tasksets.swe_repo.shipped import SweRepo, build, recipes
from m2gym.tasksets.swe_repo.splits import split_of
from m2gym.tasksets.swe_repo.tried import DATA
from m2gym.tasksets.swe_repo.unsteady import unsteady
from tests.tasksets.conftest import QUICK

IDS = sorted(recipes())
EVERY = [
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.heavy) for name in IDS if name not in QUICK),
]

MakeBox = Callable[[WorkspaceSpec], Workspace]


@pytest.fixture
def taskset(registry: None, real_cache: Cache) -> SweRepo:
    return SweRepo(real_cache)


def test_what_is_shipped() -> None:
    every = recipes().values()
    kinds = [recipe.kind for recipe in every]
    assert len(kinds) >= 250
    assert kinds.count("version-diff") >= 60
    assert len({recipe.package for recipe in every}) >= 25


def test_packages_of_the_test_split_never_occur_in_train() -> None:
    of = {s: {r.package for r in recipes().values() if r.split == s} for s in ("train", "test")}
    assert of["train"]
    assert of["test"]
    assert not of["train"] & of["test"]


def test_splits_are_those_of_the_table() -> None:
    assert not [r.id for r in recipes().values() if r.split != split_of(r.package)]


def test_no_package_has_too_large_a_share() -> None:
    counts = Counter(recipe.package for recipe in recipes().values())
    assert max(counts.values()) <= 0.08 * len(IDS)


def test_no_two_tasks_are_shown_by_the_same_tests() -> None:
    seen = {(r.package, frozenset(r.fail_to_pass)) for r in recipes().values()}
    assert len(seen) == len(IDS)


@pytest.mark.parametrize("task_id", IDS)
def test_a_recipe_agrees_with_itself(task_id: str) -> None:
    recipe = recipes()[task_id]
    green = green_tests(recipe.green)
    assert len(set(green)) == len(green)
    assert {*recipe.fail_to_pass, *recipe.not_kept} <= set(green)
    assert not {*recipe.fail_to_pass} & {*recipe.not_kept}
    assert (recipe.fixed is None) == (recipe.kind == "injected-bug")
    assert not (recipe.part and recipe.mutations)
    judged = set(green) - {*recipe.not_kept}
    assert not unsteady(recipe.package, judged), "a test that races judges nothing"
    files = [pinned()[want] if isinstance(want, str) else want for want in recipe.requires]
    assert recipe.package not in {file.project for file in files}
    if recipe.mutations:
        assert not [m for m in recipe.mutations if m.operator in recipe.id + recipe.statement]


def test_a_task_states_what_users_filter_by() -> None:
    task = SweRepo(Path("unused")).task("humanize-4.12.3")
    assert task.metadata["package"] == "humanize"
    assert task.metadata["kind"] == "version-diff"
    assert task.metadata["split"] == "test"
    assert task.metadata["difficulty"] | {"distance": None} == {
        "files": 1,
        "fail_to_pass": 2,
        "distance": None,
    }
    assert task.metadata["grade_seconds"] > 0
    assert task.artifacts == ("src/humanize",)
    [spec] = task.rewards
    assert spec.name == "tests-pass"
    assert (
        "tests/test_filesize.py::test_naturalsize[test_args58-1 Byte]"
        in spec.parameters["fail_to_pass"]
    )
    assert not set(spec.parameters["fail_to_pass"]) & set(spec.parameters["pass_to_pass"])


def test_what_verification_measured_is_told_zeros_included() -> None:
    taskset, state = SweRepo(Path("unused")), read_state(DATA)
    told = {name: taskset.task(name).metadata["difficulty"]["distance"] for name in IDS}
    measured = {n: row.distance for n, row in state.items() if n in told}
    assert {n: told[n] for n, d in measured.items() if d is not None} == {
        n: d for n, d in measured.items() if d is not None
    }
    assert 0 in measured.values()


def test_every_task_is_verified_as_it_is_shipped_and_fit() -> None:
    state = read_state(DATA)
    lost = [n for n in IDS if n not in state]
    assert not lost, "run `m2gym tasks verify`"
    stale = [
        name
        for name, recipe in recipes().items()
        if state[name].recipe != digest_of(recipe, green_tests(recipe.green))
    ]
    assert not stale, "run `m2gym tasks verify`"
    assert {name: p for name in IDS if (p := state[name].problem)} == {}


def test_ids_of_both_splits_are_all_ids() -> None:
    taskset = SweRepo(Path("unused"))
    assert sorted([*taskset.ids("train"), *taskset.ids("test")]) == IDS


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match=r"'humanize-4\.12\.3'"):
        SweRepo(Path("unused")).task("humanise-4.12.3")


def test_a_recipe_with_an_unknown_field_is_refused_by_name() -> None:
    text = recipes()["humanize-4.12.3"].model_dump_json().replace('"split"', '"splitt"')
    with pytest.raises(InputError, match=r"here\.json: split"):
        load(text, "here.json")


def _visible(prepared: PreparedTask) -> list[Path]:
    roots = [m.source for m in prepared.workspace.mounts]
    assert prepared.workspace.root is not None
    return [p for root in [prepared.workspace.root, *roots] for p in root.rglob("*") if p.is_file()]


@pytest.mark.parametrize("task_id", EVERY)
def test_no_file_the_agent_sees_holds_the_fix(taskset: SweRepo, task_id: str) -> None:
    prepared = taskset.prepare(taskset.task(task_id))
    assert prepared.reference is not None
    fixed = {hashlib.sha256(d).digest() for d in prepared.reference.files.values() if d}
    sizes = {len(d) for d in prepared.reference.files.values() if d}
    visible = [p for p in _visible(prepared) if p.stat().st_size in sizes]
    masked = [m.target for m in prepared.workspace.mounts]
    for folder in site.host_packages():
        assert site.boxed(folder) in masked
    visible = [p for p in visible if not any(p.is_relative_to(f) for f in site.host_packages())]
    assert not [p for p in visible if hashlib.sha256(p.read_bytes()).digest() in fixed]


@pytest.mark.parametrize("task_id", EVERY)
def test_the_tree_has_no_changelog_and_no_test_that_shows_the_bug(
    taskset: SweRepo, task_id: str
) -> None:
    recipe = taskset.recipe(task_id)
    prepared = taskset.prepare(taskset.task(task_id))
    root, hidden = prepared.workspace.root, prepared.hidden
    assert root is not None
    assert hidden is not None
    paths = [p for p in files_of(root) if not p.startswith(".git/")]
    sources = [p for p in paths if p.startswith(recipe.artifacts)]
    assert sources
    assert not [p for p in paths if is_changelog(p) and "/" not in p]
    assert all((hidden / path).exists() for path in recipe.shown_by)
    same = [
        path
        for path in recipe.shown_by
        if (root / path).exists() and (root / path).read_bytes() == (hidden / path).read_bytes()
    ]
    if recipe.mutations:
        assert not [path for path in recipe.shown_by if (root / path).exists()]
    else:
        assert len(same) < len(recipe.shown_by)


SEARCH = """
import hashlib, json, os, sys
wanted = json.load(sys.stdin)
for folder, folders, names in os.walk("/"):
    if folder in ("/proc", "/sys", "/dev"):
        folders.clear()
    for path in (os.path.join(folder, name) for name in names):
        try:
            if str(os.path.getsize(path)) in wanted and os.path.isfile(path):
                digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
                if digest in wanted[str(os.path.getsize(path))]:
                    print(path)
        except OSError:
            pass
"""


async def _search(taskset: SweRepo, make_box: MakeBox, task_id: str, *, also: bytes = b"") -> str:
    """Files anywhere in the agent's box that hold a fixed source file (or ``also``)."""
    prepared = taskset.prepare(taskset.task(task_id))
    assert prepared.reference is not None
    wanted: dict[int, list[str]] = {}
    for data in (*prepared.reference.files.values(), also):
        if data:
            wanted.setdefault(len(data), []).append(hashlib.sha256(data).hexdigest())
    box = make_box(prepared.workspace)
    await box.start()
    try:
        result = await box.exec(
            ["python3", "-c", SEARCH], user="root", stdin=json.dumps(wanted).encode()
        )
    finally:
        await box.stop()
    assert result.ok
    return result.output


async def test_no_file_of_the_box_holds_the_fix(taskset: SweRepo, make_box: MakeBox) -> None:
    assert await _search(taskset, make_box, QUICK[0]) == ""


async def test_the_search_finds_what_is_there(taskset: SweRepo, make_box: MakeBox) -> None:
    root = taskset.prepare(taskset.task(QUICK[0])).workspace.root
    assert root is not None
    known = (root / "pathspec/util.py").read_bytes()
    found = await _search(taskset, make_box, QUICK[0], also=known)
    assert found == "/workspace/pathspec/util.py\n"


def _first_of_each_package() -> list[str]:
    """One task a package and version: boxes of the others differ in nothing that is searched."""
    return list({(r.package, r.source.version): name for name, r in recipes().items()}.values())


@pytest.mark.heavy
@pytest.mark.parametrize("task_id", _first_of_each_package())
async def test_no_file_of_any_box_holds_the_fix(
    taskset: SweRepo, make_box: MakeBox, task_id: str
) -> None:
    assert await _search(taskset, make_box, task_id) == ""


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """Number of the middle line and text of every three lines that are not blank."""
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    for first, middle, last in zip(lines, lines[1:], lines[2:], strict=False):
        yield middle[0], f"{first[1]}\n{middle[1]}\n{last[1]}"


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_no_python_file_of_the_host_shows_a_fix(registry: None, real_cache: Cache) -> None:
    """Three lines of a mended file with the mended one in the middle, anywhere a box can look."""
    taskset = SweRepo(real_cache)
    taskset.prefetch(IDS)
    fixes: dict[str, set[str]] = {}
    hidden: dict[str, list[str]] = {}
    for name in IDS:
        prepared = taskset.prepare(taskset.task(name))
        hidden[name] = [mount.target for mount in prepared.workspace.mounts]
        change = Change.of(build(taskset.recipe(name), real_cache))
        for path, new in change.after.items():
            if new is None or not path.endswith(".py"):
                continue
            changed = change.lines(path)
            for line, window in _windows(new.decode("utf-8", "replace")):
                if line in changed and len(window) >= 80:
                    fixes.setdefault(window, set()).add(name)
    assert fixes
    shown = []
    tops = [Path("/usr"), Path(sys.base_prefix).resolve()]
    for file in (f for top in tops for f in sorted(top.rglob("*.py"))):
        if file.is_symlink() or not file.is_file() or file.stat().st_size > 2**21:
            continue
        found = {w for _, w in _windows(file.read_text("utf-8", "replace")) if w in fixes}
        for name in {name for window in found for name in fixes[window]}:
            inside = site.boxed(file)
            if not any(inside == m or inside.startswith(m + "/") for m in hidden[name]):
                shown.append((name, inside))
    assert not shown


def test_a_cached_task_needs_no_archive_and_no_index(
    taskset: SweRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = taskset.prepare(taskset.task(QUICK[0]))
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    again = SweRepo(Cache(taskset.cache.root)).prepare(taskset.task(QUICK[0]))
    assert again.workspace == first.workspace
    assert again.reference == first.reference


def test_files_of_many_tasks_are_fetched_at_once(registry: None, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    taskset = SweRepo(tmp_path, lambda *step: told.append(step))
    taskset.prefetch(["parse-1.20.2-8afbce", "pathspec-0.12.1"])
    assert told[-1][1:] == (7, 7)
    told.clear()
    taskset.prepare(taskset.task("pathspec-0.12.1"))
    assert not [what for what, _, _ in told if what.startswith("fetch")]


def test_the_tree_is_the_same_wherever_it_is_built(taskset: SweRepo, tmp_path: Path) -> None:
    first = taskset.prepare(taskset.task(QUICK[0])).workspace.root
    other = Cache(tmp_path)
    for recipe in [taskset.recipe(QUICK[0])]:
        for file in (recipe.source, recipe.fixed, *pinned().values()):
            assert file is not None
            blob = taskset.cache.blob(file.sha256)
            if blob is not None:
                other.blob_path(file.sha256).parent.mkdir(parents=True, exist_ok=True)
                other.blob_path(file.sha256).write_bytes(blob.read_bytes())
    second = SweRepo(other).prepare(taskset.task(QUICK[0])).workspace.root
    assert first is not None
    assert second is not None
    head = ".git/refs/heads/main"
    assert (first / head).read_text() == (second / head).read_text()


async def test_the_agent_finds_a_clean_repository_and_working_tests(
    taskset: SweRepo, make_box: MakeBox
) -> None:
    prepared = taskset.prepare(taskset.task(QUICK[0]))
    box = make_box(prepared.workspace)
    await box.start()
    try:
        status = await box.exec("git status --short && git log --format=%an")
        assert status.stdout == b"m2gym\n"
        tests = await box.exec("pytest -q 2>&1 | tail -1")
        assert b"passed" in tests.stdout
        assert b"failed" not in tests.stdout
        where = await box.exec("python3 -c 'import pathspec; print(pathspec.__file__)'")
        assert where.stdout == b"/workspace/pathspec/__init__.py\n"
        others = await box.exec("python3 -c 'import click'")
        assert b"ModuleNotFoundError" in others.stderr
    finally:
        await box.stop()


@pytest.mark.parametrize("task_id", QUICK)
async def test_gold_is_1_and_no_change_is_0(
    taskset: SweRepo, make_box: MakeBox, task_id: str
) -> None:
    prepared = taskset.prepare(taskset.task(task_id))
    assert await verdicts(prepared, make_box, gold=True, runs=1) == [1.0]
    assert await verdicts(prepared, make_box, gold=False, runs=1) == [0.0]


@pytest.mark.heavy
@pytest.mark.parametrize("task_id", _first_of_each_package())
async def test_gold_is_1_and_no_change_is_0_three_times(
    taskset: SweRepo, make_box: MakeBox, task_id: str
) -> None:
    prepared = taskset.prepare(taskset.task(task_id))
    assert await verdicts(prepared, make_box, gold=True) == [1.0] * 3
    assert await verdicts(prepared, make_box, gold=False) == [0.0] * 3
