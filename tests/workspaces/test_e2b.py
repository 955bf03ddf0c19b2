"""The e2b workspace over a stand-in of the service, by real HTTP and the unmodified SDK."""

from __future__ import annotations

import asyncio
import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from m2gym.core.errors import CapabilityError, InfraError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.workspaces import e2b_box, make_workspace
from m2gym.workspaces.bubblewrap import ability
from m2gym.workspaces.conformance import Conformance, Shells
from m2gym.workspaces.e2b_box import E2BWorkspace
from tests.conftest import require

pytest.importorskip("e2b", reason="needs the E2B SDK")
from tests.workspaces.e2b_service import KEY, Service


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    require("users", ability().users, "the stand-in's boxes have several users: needs root")
    made = Service()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def reach(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", KEY)
    monkeypatch.setenv("E2B_API_URL", service.url)
    monkeypatch.setenv("E2B_SANDBOX_URL", service.url)
    monkeypatch.setattr(service, "most", 20)


class TestE2BShells(Shells):
    kind = "e2b"


class TestE2B(Conformance):
    """The whole suite, a minute: a byte comes by way of HTTP, JSON and another box."""

    pytestmark = pytest.mark.heavy
    kind = "e2b"

    @pytest.fixture(autouse=True)
    def there(self, service: Service) -> None:
        self.service = service

    async def leftovers(self, box: Workspace) -> list[str]:
        folder = box.folder  # type: ignore[attr-defined]
        return [*self.service.machines, *map(str, folder.glob("*"))]


def box_of(**spec: Any) -> E2BWorkspace:
    box = make_workspace(WorkspaceSpec(**spec), "e2b")
    assert isinstance(box, E2BWorkspace)
    return box


async def test_files_and_forks(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/bash\necho ran\n")
    (tmp_path / "run").chmod(0o755)
    box = box_of(root=tmp_path, env={"OF_TASK": "1"})
    forks: list[Workspace] = []
    try:
        assert (await box.exec("./run; cat; id -u; echo $OF_TASK", stdin=b"in\n")).output == (
            "ran\nin\n1000\n1\n"
        )
        await box.write("d/f", b"\0\xff", mode=0o600)
        forks = await box.fork(1)
        assert await forks[0].read("d/f") == b"\0\xff"
        with pytest.raises(FileNotFoundError):
            await box.read("none")
    finally:
        for made in (box, *forks):
            await made.stop()


def test_without_a_key_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_API_KEY")
    with pytest.raises(CapabilityError, match="export E2B_API_KEY"):
        box_of()


def test_without_the_sdk_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name == "e2b":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "e2b")
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(CapabilityError, match=r"pip install 'm2gym\[e2b\]'"):
        box_of()


async def test_a_key_that_is_refused_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", "e2b_wrong")
    with pytest.raises(InfraError, match="refuses the key"):
        await box_of().start()


async def test_a_template_that_is_nowhere_is_named() -> None:
    with pytest.raises(InfraError, match=r"'no-such' not found; build it \(e2b template build\)"):
        await box_of(image="no-such").start()


async def test_a_limit_of_the_service_is_an_infrastructure_error(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "most", 1)
    box, other = box_of(), box_of()
    await box.start()
    try:
        with pytest.raises(InfraError, match=r"asks to wait \(429\).*M2GYM_BOXES"):
            await other.start()
    finally:
        await box.stop()


async def test_a_sandbox_whose_time_is_up_is_lost_and_not_a_result(service: Service) -> None:
    box = box_of()
    await box.start()
    (machine,) = service.machines.values()
    running = asyncio.create_task(box.exec("sleep 60"))
    await asyncio.sleep(0.3)
    machine.end = 0.0
    with pytest.raises(WorkspaceLostError, match="ended or is out of reach"):
        await running
    with pytest.raises(WorkspaceLostError):
        await box.exec("true")
    with pytest.raises(WorkspaceLostError):
        await box.read("x")
    await box.stop()


async def test_a_box_in_use_is_kept_alive(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(e2b_box, "LEASE_SECONDS", 2)
    box = box_of()
    try:
        assert (await box.exec("sleep 4; echo on")).stdout == b"on\n"
    finally:
        await box.stop()


async def test_a_dead_owners_sandbox_ends_by_itself(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(e2b_box, "LEASE_SECONDS", 1)
    box = box_of()
    await box.start()
    assert box._remote is not None
    monkeypatch.setattr(box._remote, "_tick", lambda: None)
    for _ in range(100):
        if not service.machines:
            break
        await asyncio.sleep(0.05)
    assert service.machines == {}
    await box.stop()


async def test_no_network_unless_it_is_asked_for(service: Service) -> None:
    boxes = [box_of(), box_of(network="public")]
    try:
        for box in boxes:
            await box.start()
        asked = [machine.box.spec.network for machine in service.machines.values()]
        assert asked == ["none", "public"]
    finally:
        for box in boxes:
            await box.stop()


def test_a_dockerfile_is_refused_by_name() -> None:
    with pytest.raises(CapabilityError, match="e2b template build"):
        box_of(build=Path("/"))
