"""The conformance suite over every workspace of ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest

from m2gym.core.workspace import Workspace
from m2gym.workspaces.bubblewrap import ability
from m2gym.workspaces.conformance import Conformance
from tests.conftest import require
from tests.workspaces.engine import need_engine
from tests.workspaces.small_image import NAME, make_image


def host_processes(word: str) -> list[str]:
    """Processes of this machine with a word in their command line."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in lines.stdout.splitlines() if line.startswith(word)]


def of_the_host(box: Workspace) -> list[str]:
    """What the host still has of a stopped box: its command, files of its folder."""
    folder: Path = box.folder  # type: ignore[attr-defined]
    return [*host_processes("sleep 9892"), *map(str, folder.glob("*"))]


class TestLocal(Conformance):
    kind = "local"

    @pytest.fixture(autouse=True)
    def there(self) -> None:
        require("bwrap", ability().works, ability().reason)

    async def leftovers(self, box: Workspace) -> list[str]:
        return of_the_host(box)


class TestProcess(Conformance):
    kind = "process"

    async def leftovers(self, box: Workspace) -> list[str]:
        return of_the_host(box)


class TestDocker(Conformance):
    kind = "docker"

    @pytest.fixture(autouse=True)
    def there(self) -> None:
        need_engine()

    async def leftovers(self, box: Workspace) -> list[str]:
        from m2gym.workspaces.docker_engine import OWNER, engine
        from m2gym.workspaces.state import State

        mine = {"label": [f"{OWNER}={State.get().owner}"]}
        left = [c["Id"] for c in engine().api.containers(all=True, filters=mine)]
        return [*of_the_host(box), *left]


class TestDockerWithPython(TestDocker):
    """The same with the supervisor in Python, as on a machine without a compiler."""

    pytestmark = pytest.mark.heavy

    @pytest.fixture(autouse=True)
    def python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(os.environ, "M2GYM_SUPERVISOR", "python")


class TestDockerWithoutPython(TestDockerWithPython):
    """The same where the image holds no Python either: the supervisor enters from outside."""

    spec: ClassVar[dict[str, Any]] = {"image": NAME}

    @pytest.fixture(autouse=True)
    def image(self, there: None) -> None:
        make_image()
