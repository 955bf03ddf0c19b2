"""verl renames things in each minor release: what we take from it is named in one module."""

from __future__ import annotations

import ast
from pathlib import Path

import m2gym

ROOT = Path(m2gym.__file__).parent
BACKEND = ROOT / "backends" / "verl"
ANYWHERE = {"verl"}
HERE = {*ANYWHERE, "ray", "transfer_queue", "tensordict", "omegaconf"}


def imported(path: Path) -> set[str]:
    """Roots of what a module imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_verl_is_imported_by_one_module_only() -> None:
    found = {path for path in ROOT.rglob("*.py") if imported(path) & ANYWHERE}
    assert found == {BACKEND / "api.py"}


def test_so_is_what_it_stands_on() -> None:
    found = {path for path in BACKEND.glob("*.py") if imported(path) & HERE}
    assert found == {BACKEND / "api.py"}
