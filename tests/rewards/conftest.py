"""Real boxes, and a small repository with a bug, its tests and its fix."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from m2gym.core.errors import CapabilityError
from m2gym.core.task import Limits, Mount, PreparedTask, RewardSpec, Task, WorkspaceSpec
from m2gym.core.verdict import Verdict
from m2gym.core.workspace import Workspace
from m2gym.rewards import grade
from m2gym.workspaces import make_workspace
from tests.conftest import require

BROKEN = "def add(a, b):\n    return a - b\n\n\ndef mul(a, b):\n    return a * b\n"
FIXED = BROKEN.replace("a - b", "a + b")
TESTS = '''\
import unittest

import pytest

import calc


def test_add():
    """Adds."""
    assert calc.add(2, 3) == 5


def test_mul():
    product = calc.mul(2, 3)
    assert product == 6


@pytest.fixture
def one():
    return 1


@pytest.mark.parametrize("word", ["x", "a b [c]", "d::e"])
def test_repeat(word, one):
    assert calc.mul(word, one) == word


class TestGroup:
    def test_add_zero(self):
        assert calc.add(4, 0) == 4

    def test_skipped(self):
        pytest.skip("always")


class Old(unittest.TestCase):
    def test_square(self):
        self.assertEqual(calc.mul(3, 3), 9)
'''
SITE = "/opt/m2gym/site"
FILE = "tests/test_calc.py"
FAIL_TO_PASS = [f"{FILE}::test_add"]
PASS_TO_PASS = [
    f"{FILE}::{name}"
    for name in (
        "test_mul",
        "test_repeat[x]",
        "test_repeat[a b [c]]",
        "test_repeat[d::e]",
        "TestGroup::test_add_zero",
        "TestGroup::test_skipped",
        "Old::test_square",
    )
]


@dataclass
class Bench:
    """Grades what an agent leaves in a copy of the small repository."""

    folder: Path
    site: Path
    tests: str = TESTS
    name: str = "tests-pass"
    fail_to_pass: list[str] = field(default_factory=lambda: list(FAIL_TO_PASS))
    pass_to_pass: list[str] = field(default_factory=lambda: list(PASS_TO_PASS))
    parameters: dict[str, Any] = field(default_factory=dict)
    rewards: tuple[RewardSpec, ...] | None = None
    root: dict[str, str] = field(default_factory=lambda: {"src/calc.py": BROKEN})
    hidden: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = (".",)
    limits: Limits = Limits()  # noqa: RUF009
    seed: int | None = None
    kind: str = "local"

    def prepared(self) -> PreparedTask:
        for where, files in (("root", self.root), ("hidden", {FILE: self.tests, **self.hidden})):
            for path, text in files.items():
                target = self.folder / where / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        own = RewardSpec(
            name=self.name,
            parameters={
                "fail_to_pass": self.fail_to_pass,
                "pass_to_pass": self.pass_to_pass,
                **self.parameters,
            },
        )
        task = Task(
            id="calc",
            instruction="Make add add.",
            rewards=self.rewards or (own,),
            artifacts=self.artifacts,
            limits=self.limits,
        )
        spec = WorkspaceSpec(
            root=self.folder / "root",
            mounts=(Mount(source=self.site, target=SITE),) if self.kind == "local" else (),
            env={
                "PYTHONPATH": f"/workspace/src:{SITE if self.kind == 'local' else self.site}",
                "PYTHONHASHSEED": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            limits=self.limits,
        )
        return PreparedTask(task, spec, self.folder / "hidden")

    async def grade(
        self,
        files: dict[str, str] | None = None,
        script: str | None = None,
        act: Callable[[Workspace], Awaitable[None]] | None = None,
    ) -> Verdict:
        """The verdict on an agent that writes ``files``, runs ``script`` and does ``act``."""
        prepared = self.prepared()
        box = make_workspace(prepared.workspace, self.kind)
        await box.start()
        try:
            for path, text in (files or {}).items():
                await box.write(path, text.encode())
            if script:
                result = await box.exec(script)
                assert result.ok, result.output
            if act:
                await act(box)
            return await grade(
                prepared,
                box,
                make_box=lambda spec: make_workspace(spec, self.kind),
                seed=self.seed,
            )
        finally:
            await box.stop()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pytest and its parts, as a taskset would mount it."""
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        source = Path(spec.origin)
        if source.name == "__init__.py":
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source.parent, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / source.name)
    return folder


@pytest.fixture
def bench(tmp_path: Path, site: Path) -> Bench:
    try:
        box = make_workspace(WorkspaceSpec(), "local")
    except CapabilityError as error:
        require("bwrap", False, str(error))
        raise
    assert box.kind == "local"
    return Bench(tmp_path, site)
