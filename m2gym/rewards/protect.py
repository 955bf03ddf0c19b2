"""What decides how tests are found and how Python starts never comes from the agent.

The rule: a file with one of the names in `CONFIGURATION`, anywhere in the work folder, and every
test file that is run, is the hidden tree's; where that has none, the pristine tree's; where that
has none either, there is none. Other files (sources, helpers, data) stay as the agent left them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from m2gym.core.errors import VerifierError
from m2gym.core.workspace import User
from m2gym.rewards.grading import Grading, tree

CONFIGURATION = frozenset(
    {"conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini"}
    | {"setup.cfg", "pyproject.toml", "sitecustomize.py", "usercustomize.py"}
    | {"entry_points.txt"}
)


def is_configuration(path: str) -> bool:
    """Whether a file of this name steers pytest or the start of Python."""
    return posixpath.basename(path) in CONFIGURATION or path.endswith(".pth")


def is_test_file(path: str) -> bool:
    """Whether pytest ids name this file as a test module (not a source or a page with doctests)."""
    name = posixpath.basename(path)
    folders = set(path.split("/")[:-1])
    in_tests = bool(folders & {"test", "tests", "testing"})
    return name.endswith(".py") and (
        name.startswith("test_") or name.endswith("_test.py") or name == "tests.py" or in_tests
    )


def graded_sources(grading: Grading, files: Sequence[str]) -> dict[str, bytes | None]:
    """The test files as they will run; ``None`` where there is none."""
    root = grading.prepared.workspace.root
    found: dict[str, bytes | None] = {}
    for path in files:
        if path in grading.hidden:
            found[path] = grading.hidden[path].read_bytes()
        elif root is not None and (is_test_file(path) or not grading.declared(path)):
            source = root / path
            found[path] = source.read_bytes() if source.is_file() else None
        else:
            found[path] = grading.artifacts.get(path)
    return found


def configuration_text(grading: Grading) -> str:
    """The configuration that counts, as one text."""
    root = grading.prepared.workspace.root
    files = {**tree(root), **grading.hidden}
    steering = [files[p] for p in sorted(files) if is_configuration(p) and not p.endswith(".py")]
    return "\n".join(p.read_text("utf-8", "replace") for p in steering)


async def protect(grading: Grading, files: Sequence[str]) -> list[str]:
    """Put configuration and test files right in the grading box; the paths that had to be.

    Raises:
        VerifierError: the box refused.
    """
    root = grading.prepared.workspace.root
    if root is None:
        return []
    pristine = tree(root)
    tests = {path for path in files if is_test_file(path)}
    names = {*pristine, *grading.artifacts, *grading.links}
    guarded = {p for p in names if is_configuration(p) or p in tests} - set(grading.hidden)
    guarded = {p for p in guarded if grading.declared(p)}
    wrong = [
        p
        for p in sorted(guarded)
        if p in grading.links
        or (pristine[p].read_bytes() if p in pristine else None) != grading.artifacts.get(p)
    ]
    if not wrong:
        return []
    user: User | None = "root" if "users" in grading.workspace.capabilities else None
    result = await grading.workspace.exec(["rm", "-rf", "--", *wrong], user=user)
    if not result.ok:
        raise VerifierError(f"could not put {wrong[:5]} right: {result.output[-200:]}")
    for path in wrong:
        if path in pristine:
            await grading.workspace.write(path, pristine[path].read_bytes(), user="grader")
    return wrong
