"""What becomes of boxes when their engine is killed, restarted or starved: an engine of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from m2gym.core.errors import InfraError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces import docker_engine, make_workspace
from m2gym.workspaces.docker_box import DockerWorkspace
from m2gym.workspaces.docker_engine import PLACE, Engine, engine
from tests.conftest import require
from tests.workspaces.own_engine import OwnBridge, OwnEngine, SmallDisk, can_be_made
from tests.workspaces.small_image import NAME


@pytest.fixture(autouse=True)
def there() -> None:
    require("docker", can_be_made(), "no container engine can be started here")


def use(host: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host.socket)
    monkeypatch.setattr(docker_engine, "_current", None)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    host = OwnEngine()
    try:
        host.start()
        host.import_image()
        use(host, monkeypatch)
        yield host
    finally:
        host.close()


def box_of(**spec: object) -> DockerWorkspace:
    box = make_workspace(WorkspaceSpec(**{"image": NAME, **spec}), "docker")  # type: ignore[arg-type]
    assert isinstance(box, DockerWorkspace)
    return box


async def test_boxes_outlive_an_engine_and_are_lost_to_its_restart(own: OwnEngine) -> None:
    box = box_of()
    await box.start()
    own.kill()
    assert (await box.exec("echo still here")).stdout == b"still here\n"
    waiting = box_of()
    with pytest.raises(InfraError, match=r"run: systemctl (re)?start docker"):
        await waiting.start()
    running = asyncio.create_task(box.exec("sleep 600", timeout=600))
    await asyncio.to_thread(own.start)
    with pytest.raises(WorkspaceLostError, match="was it, or the engine, killed or restarted"):
        await running
    await box.stop()
    after = box_of()
    try:
        assert (await after.exec("echo on")).stdout == b"on\n"
    finally:
        await after.stop()
    engine().reap()
    mine = {"label": f"{PLACE}={engine().place}"}
    assert engine().api.containers(all=True, filters=mine) == []


@pytest.mark.heavy
async def test_a_box_stopped_while_the_engine_is_down_is_reaped_later(own: OwnEngine) -> None:
    box = box_of()
    await box.start()
    own.kill()
    await box.stop()
    await asyncio.to_thread(own.start)
    mine = {"label": f"{PLACE}={Engine().place}"}
    for _ in range(100):
        if not engine().api.containers(all=True, filters=mine):
            return
        await asyncio.sleep(0.1)
    pytest.fail("a stopped box's container is still there")


@pytest.mark.heavy
async def test_a_full_disk_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(120)
    host = OwnEngine("--bridge=none", "--storage-driver=overlay2", data=disk.path)
    try:
        host.start()
        host.import_image()
        use(host, monkeypatch)
        box = box_of()
        await box.start()
        disk.fill()
        with pytest.raises(InfraError, match="run: docker system prune"):
            await box.snapshot()
        assert (await box.exec("echo on")).stdout == b"on\n"
        with pytest.raises(InfraError, match="run: docker system prune"):
            await box_of().start()
        disk.free()
        await (await box.snapshot()).discard()
        await box.stop()
    finally:
        host.close()
        disk.close()


@pytest.mark.heavy
async def test_an_exhausted_address_pool_is_named_with_its_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge = OwnBridge()
    host = OwnEngine(f"--bridge={bridge.name}", f"--fixed-cidr={bridge.network}")
    boxes: list[DockerWorkspace] = []
    try:
        host.start()
        host.import_image()
        use(host, monkeypatch)
        boxes = [box_of(network="public"), box_of(network="public")]
        await boxes[0].start()
        with pytest.raises(InfraError, match="run: docker network prune"):
            await boxes[1].start()
        assert (await boxes[0].exec("echo on")).stdout == b"on\n"
    finally:
        for box in boxes:
            await box.stop()
        host.close()
        bridge.close()
