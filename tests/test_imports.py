"""The house: imports never run up the table of rooms, and `import m2gym` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "m2gym"
LOW = {"core", "workspaces", "rewards", "tasksets", "envs"}
MAY_IMPORT = {
    "core": set(),
    "workspaces": {"core"},
    "rewards": {"core", "workspaces"},
    "tasksets": {"core", "workspaces", "rewards"},
    "envs": LOW - {"envs"},
    "models": {"core"},
    "gateway": {"core", "models"},
    "report": {"core"},
    "scaffolds": LOW | {"models", "gateway"},
    "rollout": LOW | {"models", "gateway", "scaffolds", "report"},
    "forge": {"core"},
    "kernels": set(),
    "backends": LOW | {"models", "gateway", "scaffolds", "rollout", "forge", "kernels", "report"},
    "pipelines": LOW | {"models", "gateway", "scaffolds", "rollout", "report"},
}

NO_ROOMS = {"__version__", "gymnasium_ids"}
"""What rooms import from `m2gym` itself."""

TASKSETS = (
    "registry",
    "edits",
    "outcomes",
    "memory",
    "swe_repo",
    "statements",
    "quality",
    "injected",
    "version_diffs",
    "swe_bench_rows",
    "harbor",
    "tool_use",
    "tool_worlds",
)
"""What is in `m2gym.tasksets`, from the ground up."""


def parts_imported(path: Path, package: str) -> set[str]:
    """The modules and packages of ``package`` itself that a file imports from, or from below."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == package:
                names = [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {
            name.removeprefix(f"{package}.").split(".")[0]
            for name in names
            if name.startswith(f"{package}.")
        }
    return found


def is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()


@pytest.mark.parametrize("room", sorted(p.name for p in PACKAGE.iterdir() if is_package(p)))
def test_a_room_imports_only_rooms_below_it(room):
    if room == "cli":
        return
    assert room in MAY_IMPORT, f"{room} is not in the table of rooms"
    wrong = {
        str(path.relative_to(PACKAGE)): bad
        for path in (PACKAGE / room).rglob("*.py")
        if (
            bad := parts_imported(path, "m2gym")
            - MAY_IMPORT[room]
            - {room, "__version__", "gymnasium_ids"}
        )
    }
    assert not wrong


def test_the_parts_of_tasksets_import_only_parts_below_them():
    folder = PACKAGE / "tasksets"
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or is_package(path)}
    assert parts - {"__init__"} == set(TASKSETS)
    wrong = {
        str(path.relative_to(folder)): bad
        for number, part in enumerate(TASKSETS)
        for path in (*folder.glob(f"{part}.py"), *(folder / part).rglob("*.py"))
        if (bad := parts_imported(path, "m2gym.tasksets") - {*TASKSETS[: number + 1]})
    }
    assert not wrong


def test_importing_m2gym_imports_nothing_heavy():
    code = "import m2gym, sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert "m2gym" in loaded
    assert not loaded & {"torch", "transformers", "litellm", "docker", "e2b", "pandas", "pydantic"}


def test_no_module_is_longer_than_one_concept():
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert not long
