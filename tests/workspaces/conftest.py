"""Boxes for the tests of this folder: real ones, of every kind this machine allows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from m2gym.core.task import Limits, WorkspaceSpec
from m2gym.workspaces import make_workspace
from m2gym.workspaces.bubblewrap import ability
from m2gym.workspaces.supervised import SupervisedWorkspace
from tests.conftest import require as need

MakeBox = Callable[..., Awaitable[SupervisedWorkspace]]


@pytest.fixture
def needs_local() -> None:
    need("bwrap", ability().works, ability().reason)


@pytest.fixture
def needs_users(needs_local: None) -> None:
    need("users", ability().users, "several users need root")


@pytest.fixture(params=["local", "process"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of workspace that shares the contract."""
    if request.param == "local":
        need("bwrap", ability().works, ability().reason)
    return str(request.param)


@pytest_asyncio.fixture
async def make() -> AsyncIterator[MakeBox]:
    """Makes started boxes and stops them at the end."""
    boxes: list[SupervisedWorkspace] = []

    async def make_box(kind: str = "local", **spec: Any) -> SupervisedWorkspace:
        limits = Limits(**spec.pop("limits", {}))
        box = make_workspace(WorkspaceSpec(limits=limits, **spec), kind)
        assert isinstance(box, SupervisedWorkspace)
        boxes.append(box)
        await box.start()
        return box

    yield make_box
    for box in boxes:
        await box.stop()


@pytest_asyncio.fixture
async def box(kind: str, make: MakeBox) -> SupervisedWorkspace:
    """A started box of each kind."""
    return await make(kind)


@pytest_asyncio.fixture
async def local(needs_local: None, make: MakeBox) -> SupervisedWorkspace:
    """A started local box."""
    return await make("local")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small work folder."""
    root = tmp_path / "tree"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.py").write_text("print('hi')\n")
    (root / "run.sh").write_text("#!/bin/bash\necho ran\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("src/main.py")
    return root
