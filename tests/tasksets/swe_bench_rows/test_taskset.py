"""SWE-bench rows: reading, files from checkouts, and real gradings of gold and no change."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import m2gym.tasksets
from m2gym.core.errors import CapabilityError, InputError, UnknownIdError, VerifierError
from m2gym.core.task import PreparedTask, WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.outcomes.measure import verdicts
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.swe_bench_rows.files import changed
from m2gym.tasksets.swe_bench_rows.rows import read_rows
from m2gym.tasksets.swe_bench_rows.taskset import SweBench
from m2gym.workspaces import make_workspace

MakeBox = Callable[[WorkspaceSpec], Workspace]

BASE = {
    "calc.py": "def add(a, b):\n    return a - b\n\n\ndef mul(a, b):\n    return a * b\n",
    "old.py": "x = 1\n",
    "tests/test_calc.py": "import calc\n\n\ndef test_mul():\n    assert calc.mul(2, 3) == 6\n",
    "tests/test_gone.py": "import nothing_at_all\n",
    "README.md": "calc\n",
}
FIXED = {**BASE, "calc.py": BASE["calc.py"].replace("a - b", "a + b")}
del FIXED["old.py"]
TESTED = {
    **BASE,
    "tests/test_calc.py": BASE["tests/test_calc.py"]
    + "\n\ndef test_add():\n    assert calc.add(2, 3) == 5\n",
    "tests/data/numbers.txt": "5\n",
}
del TESTED["tests/test_gone.py"]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> None:
    git(folder, "rm", "-rqf", "--ignore-unmatch", ".")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git(folder, "add", "-A")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return checkouts_and_row(tmp_path_factory.mktemp("checkouts"))


def checkouts_and_row(checkouts: Path) -> tuple[Path, dict[str, Any]]:
    """A folder of checkouts, and the row over the repository in it."""
    folder = checkouts / "someone__calc"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    write(folder, BASE)
    git(folder, "commit", "-qm", "base")
    base = git(folder, "rev-parse", "HEAD").strip()
    write(folder, FIXED)
    patch = git(folder, "diff", "--cached", base)
    write(folder, TESTED)
    test_patch = git(folder, "diff", "--cached", base)
    git(folder, "commit", "-qm", "later")
    row = {
        "repo": "someone/calc",
        "instance_id": "someone__calc-1",
        "base_commit": base,
        "patch": patch,
        "test_patch": test_patch,
        "problem_statement": "add(2, 3) gives -1.",
        "hints_text": "Look at the sign.",
        "created_at": "2021-08-04T15:22:07Z",
        "version": "1.0",
        "FAIL_TO_PASS": '["tests/test_calc.py::test_add"]',
        "PASS_TO_PASS": ["tests/test_calc.py::test_mul"],
        "environment_setup_commit": base,
        "extra": 1,
    }
    return checkouts, row


def test_reference_rows_load(shared_dir: Path) -> None:
    path = shared_dir / "data" / "swe-bench" / "rows.json"
    rows = read_rows(path)
    assert [row.instance_id for row in rows] == [
        "pydicom__pydicom-1458",
        "pylint-dev__astroid-1268",
        "pydicom__pydicom-1194",
        "sqlfluff__sqlfluff-2386",
    ]
    taskset = m2gym.tasksets.swe_bench(path, image="images/{instance_id}")
    for row in rows:
        task = taskset.task(row.instance_id)
        assert task.instruction.startswith(row.problem_statement.strip())
        assert task.rewards[0].parameters["fail_to_pass"] == list(row.FAIL_TO_PASS)
        assert taskset.prepare(task).workspace.image == f"images/{row.instance_id}"
    task = taskset.task("pydicom__pydicom-1458")
    parameters = task.rewards[0].parameters
    assert parameters["kind"] == "pytest-options"
    activate, command = parameters["command"].split("\n")
    assert activate.endswith("activate testbed")
    assert command == ("python3 -m pytest -rA --color=no pydicom/tests/test_numpy_pixel_data.py")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet", "objects"])
def test_rows_of_every_kind_of_file(
    suffix: str, made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, row = made
    other = {**row, "instance_id": "b", "FAIL_TO_PASS": '["t[é  x]"]', "PASS_TO_PASS": "[]"}
    rows = [{**row, "PASS_TO_PASS": json.dumps(row["PASS_TO_PASS"])}, other]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif suffix == ".parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    read = read_rows(rows if suffix == "objects" else path)
    assert [r.instance_id for r in read] == ["someone__calc-1", "b"]
    assert read[0].FAIL_TO_PASS == ("tests/test_calc.py::test_add",)
    assert read[1].FAIL_TO_PASS == ("t[é  x]",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": None}, "row 0 (someone__calc-1): patch: Input should be a valid string"),
        ({"repo": "calc"}, "repo: String should match"),
        ({"FAIL_TO_PASS": "[]"}, "FAIL_TO_PASS: Tuple should have at least 1 item"),
        ({"FAIL_TO_PASS": "test_add"}, "FAIL_TO_PASS: Value error, expected a list of test ids or"),
        ({"PASS_TO_PASS": [1]}, "PASS_TO_PASS: Value error, expected a list of test ids, got [1]"),
        ({"base_commit": ""}, "base_commit: String should have at least 1"),
    ],
)
def test_a_wrong_field_is_named(
    change: dict[str, Any], message: str, made: tuple[Path, dict[str, Any]]
) -> None:
    with pytest.raises(InputError) as error:
        read_rows([{**made[1], **change}])
    assert message in str(error.value)


def test_a_missing_field_and_wrong_files_are_named(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    row = dict(made[1])
    del row["test_patch"]
    with pytest.raises(InputError, match=r"test_patch: Field required"):
        read_rows([made[1], row])
    with pytest.raises(InputError, match="stands for another row too"):
        read_rows([made[1], {**made[1], "version": "2"}])
    assert len(read_rows([made[1], made[1]])) == 1
    with pytest.raises(InputError, match="there is no row"):
        read_rows([])
    with pytest.raises(InputError, match="is none"):
        read_rows(tmp_path / "absent.json")
    texts = {"a.json": "{}", "b.json": "[1", "c.jsonl": "{", "e.csv": "x"}
    wanted = [
        "expected a list of rows",
        "is not json",
        "is not jsonl",
        "rows come",
    ]
    for (name, text), message in zip(texts.items(), wanted, strict=True):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_rows(tmp_path / name)
    pytest.importorskip("pyarrow")
    (tmp_path / "d.parquet").write_text("x")
    with pytest.raises(InputError, match="is not Parquet"):
        read_rows(tmp_path / "d.parquet")


def test_a_row_is_an_object() -> None:
    with pytest.raises(InputError, match="row 0: expected an object"):
        read_rows([1])  # type: ignore[list-item]


def test_where_the_files_come_from_must_be_said(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, cache: Cache
) -> None:
    checkouts, row = made
    with pytest.raises(InputError, match="either checkouts=FOLDER or image=NAME"):
        SweBench([row])
    with pytest.raises(InputError, match="expected a folder"):
        SweBench([row], checkouts=tmp_path / "absent")
    empty = SweBench([row], checkouts=tmp_path, cache=cache)
    with pytest.raises(InputError, match=r"repo: no checkout of someone/calc .*someone__calc"):
        empty.prepare(empty.task("someone__calc-1"))
    wrong = SweBench([{**row, "base_commit": "0" * 40}], checkouts=checkouts, cache=cache)
    with pytest.raises(InputError, match=r"base_commit: .* has no commit 000"):
        wrong.prepare(wrong.task("someone__calc-1"))
    for field in ("patch", "test_patch"):
        torn = SweBench(
            [{**row, field: row[field].replace("test_mul", "x").replace("a - b", "b")}],
            checkouts=checkouts,
            cache=cache,
        )
        with pytest.raises(InputError, match=rf"calc-1: {field}: does not apply"):
            torn.prepare(torn.task("someone__calc-1"))
    leaving = row["patch"].replace("calc.py", "../calc.py")
    outside = SweBench([{**row, "patch": leaving}], checkouts=checkouts, cache=cache)
    with pytest.raises(InputError, match="leaves the repository"):
        outside.prepare(outside.task("someone__calc-1"))
    with pytest.raises(UnknownIdError, match="did you mean 'someone__calc-1'"):
        empty.task("someone__calc-2")
    with pytest.raises(UnknownIdError, match="kind of test log 'pytests'"):
        SweBench([row], checkouts=checkouts, log="pytests").task("someone__calc-1")
    with pytest.raises(InputError, match="placeholders are"):
        SweBench([row], image="{instance}").prepare(
            SweBench([row], image="x").task(row["instance_id"])
        )


def test_a_task_of_a_row(made: tuple[Path, dict[str, Any]], cache: Cache) -> None:
    checkouts, row = made
    taskset = SweBench([row], checkouts=checkouts, cache=cache, hints=True, split="train")
    assert (taskset.ids("train"), taskset.ids("test")) == (["someone__calc-1"], [])
    task = taskset.task("someone__calc-1")
    assert "Look at the sign." in task.instruction
    assert task.metadata["base_commit"] == row["base_commit"]
    prepared = taskset.prepare(task)
    root, hidden = prepared.workspace.root, prepared.hidden
    assert root is not None
    assert hidden is not None
    assert (root / "calc.py").read_text() == BASE["calc.py"]
    assert git(root, "rev-list", "--all", "--count").strip() == "1"
    shown = {p.relative_to(hidden).as_posix() for p in hidden.rglob("*") if p.is_file()}
    assert shown == {"tests/test_calc.py", "tests/data/numbers.txt"}
    assert prepared.reference is not None
    assert prepared.reference.files == {"calc.py": FIXED["calc.py"].encode(), "old.py": None}
    assert "Look at" not in SweBench([row], image="x").task(task.id).instruction


@pytest.mark.parametrize("name", ["someone/calc", "calc.git", "someone__calc-1"])
def test_checkouts_may_be_bare_nested_or_plain_and_stay_as_they_are(
    name: str, made: tuple[Path, dict[str, Any]], cache: Cache, tmp_path: Path
) -> None:
    checkouts, row = made
    source, target = checkouts / "someone__calc", tmp_path / "all" / name
    target.parent.mkdir(parents=True)
    git(source, "clone", "-q", *(["--bare"] if ".git" in name else []), ".", str(target))
    if name == row["instance_id"]:
        git(target, "checkout", "-q", row["base_commit"])
        shutil.rmtree(target / ".git")
        (target / "left_over.py").write_text("by hand\n")
    elif ".git" not in name:
        git(target, "checkout", "-q", "--orphan", "other")
        (target / ".git" / "info" / "attributes").write_text("tests export-ignore\n")
    before = {p: p.lstat().st_mtime_ns for p in target.rglob("*")}
    taskset = SweBench([row], checkouts=tmp_path / "all", cache=cache)
    root = taskset.prepare(taskset.task(row["instance_id"])).workspace.root
    assert root is not None
    shown = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    own = {"left_over.py"} if name == row["instance_id"] else set()
    assert {path for path in shown if not path.startswith(".git/")} == {*BASE, *own}
    assert {p: p.lstat().st_mtime_ns for p in target.rglob("*")} == before


async def scores(prepared: PreparedTask, make_box: MakeBox) -> list[float | None]:
    gold = await verdicts(prepared, make_box, gold=True, runs=1)
    return gold + await verdicts(prepared, make_box, gold=False, runs=1)


@pytest.mark.usefixtures("registry")
async def test_gold_is_resolved_and_no_change_is_not(
    made: tuple[Path, dict[str, Any]], real_cache: Cache, make_box: MakeBox
) -> None:
    checkouts, row = made
    taskset = SweBench([row], checkouts=checkouts, cache=real_cache)
    assert await scores(taskset.prepare(taskset.task(row["instance_id"])), make_box) == [1.0, 0.0]


@pytest.mark.usefixtures("registry")
async def test_the_test_command_decides_what_the_log_is(
    made: tuple[Path, dict[str, Any]], real_cache: Cache, make_box: MakeBox
) -> None:
    checkouts, row = made

    async def gold(command: str, **more: Any) -> float | None:
        taskset = SweBench(
            [{**row, **more}], checkouts=checkouts, cache=real_cache, command=command
        )
        prepared = taskset.prepare(taskset.task(row["instance_id"]))
        return (await verdicts(prepared, make_box, gold=True, runs=1))[0]

    assert await gold("python3 -m pytest -v {files}") == 1.0
    assert await gold("python3 -m pytest -v {files}; exit 3") == 0.0
    assert await gold("python3 -m pytest -v {files}", PASS_TO_PASS=["tests/test_x.py::t"]) == 0.0
    assert await gold("true") == 0.0
    assert await gold("test ! -e tests/test_gone.py && python3 -m pytest -v tests") == 1.0


@pytest.mark.usefixtures("registry")
async def test_in_an_image_the_test_patch_is_applied_in_the_box(
    made: tuple[Path, dict[str, Any]], real_cache: Cache, make_box: MakeBox, tmp_path: Path
) -> None:
    checkouts, row = made
    images = SweBench([row], image="calc:{version}", cache=real_cache)
    task = images.task(row["instance_id"])
    prepared = images.prepare(task)
    assert prepared.workspace.image == "calc:1.0"
    with pytest.raises(CapabilityError, match="image"):
        make_workspace(prepared.workspace, "local")
    files = SweBench([row], checkouts=checkouts, cache=real_cache)
    local = files.prepare(files.task(task.id)).workspace
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(checkouts / "someone__calc"), str(clone))
    git(clone, "checkout", "-q", row["base_commit"])
    clone.chmod(0o755)
    spec = local.model_copy(update={"root": clone})
    assert await scores(replace(prepared, workspace=spec), make_box) == [1.0, 0.0]
    torn = tmp_path / "torn" / ".m2gym-hidden"
    torn.mkdir(parents=True)
    (torn / "test.patch").write_text(row["test_patch"].replace("test_mul", "x"))
    with pytest.raises(VerifierError, match="the test patch cannot be applied"):
        await verdicts(
            replace(prepared, workspace=spec, hidden=torn.parent), make_box, gold=True, runs=1
        )


def test_changed_paths() -> None:
    patch = (
        "diff --git a/a.py b/b.py\nsimilarity index 100%\nrename from a.py\nrename to b.py\n"
        "diff --git a/bin.png b/bin.png\nindex 1..2\nGIT binary patch\n"
        "diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n"
        "@@ -0,0 +1 @@\n+--- x\n"
    )
    assert changed(patch) == ["b.py", "bin.png", "new.py", "a.py"]
