"""The docker workspace beyond the contract: images, owners that die, limits of an engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from m2gym.core.errors import CapabilityError, InfraError, InputError
from m2gym.core.task import Limits, WorkspaceSpec
from m2gym.workspaces import docker_engine, make_workspace
from m2gym.workspaces.docker_box import DockerWorkspace
from m2gym.workspaces.docker_engine import PLACE, Engine, engine
from m2gym.workspaces.docker_images import identity, image_of
from tests.workspaces import small_image
from tests.workspaces.engine import need_engine


@pytest.fixture(autouse=True)
def there() -> None:
    need_engine()


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder with a Dockerfile."""
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "seed.txt").write_text("seed\n")
    (folder / "Dockerfile").write_text(
        "FROM m2gym-base\nENV MADE=here PATH=/opt/tool:/usr/bin:/bin\nWORKDIR /app\n"
        "COPY seed.txt .\nRUN mkdir /opt/tool && printf '#!/bin/sh\\necho tool\\n' "
        "> /opt/tool/tool && chmod 755 /opt/tool/tool && chown -R 1000:1000 /app\n"
    )
    return folder


async def test_a_dockerfile_is_built_once_per_content(build: Path) -> None:
    if identity(engine(), "m2gym-base") is None:
        pytest.skip("needs the image m2gym-base")
    spec = WorkspaceSpec(build=build, workdir="/app")
    first = image_of(engine(), spec)
    assert image_of(engine(), spec) == first
    box = make_workspace(spec, "docker")
    try:
        result = await box.exec("cat seed.txt; echo $MADE; tool; echo more >> seed.txt")
        assert result.output == "seed\nhere\ntool\n"
    finally:
        await box.stop()
    (build / "seed.txt").write_text("other\n")
    assert image_of(engine(), spec) != first


async def test_a_dockerfile_that_fails_says_why(build: Path) -> None:
    (build / "Dockerfile").write_text("FROM m2gym-base\nRUN echo the reason; exit 3\n")
    box = make_workspace(WorkspaceSpec(build=build), "docker")
    with pytest.raises(InfraError, match=r"(?s)building .*(the reason|no such image)"):
        await box.start()
    await box.stop()
    with pytest.raises(InputError, match="Dockerfile"):
        image_of(engine(), WorkspaceSpec(build=build.parent))


async def test_an_image_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    box = make_workspace(WorkspaceSpec(image="m2gym-no-such-image:1"), "docker")
    with pytest.raises(InfraError, match="m2gym-no-such-image"):
        await box.start()
    await box.stop()


def test_a_local_box_refuses_what_needs_an_image(build: Path) -> None:
    with pytest.raises(CapabilityError, match="image"):
        make_workspace(WorkspaceSpec(build=build), "process")
    make_workspace(WorkspaceSpec(build=build, needs_image=False), "process")


CHILD = """
import asyncio, sys, time
from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces import make_workspace
async def main():
    box = make_workspace(WorkspaceSpec(), "docker")
    await box.start()
    await box.exec("touch f")
    await box.snapshot()
    process = await box.spawn("setsid sleep 9893 & sleep 9893")
    print(box.container, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_killed_owner_leaves_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        container = child.stdout.readline().strip()
        host = engine()
        assert host.has_container(container)
        assert host.reap() == []
        child.kill()
    mine = {"label": f"{PLACE}={host.place}"}
    host.remove_container(container)
    assert any(line.startswith("snapshot") for line in host.reap())
    assert not host.has_container(container)
    assert host.api.images(filters=mine) == []


def test_the_reaper_spares_what_is_not_ours() -> None:
    host = engine()
    base = image_of(host, WorkspaceSpec())
    labels = {PLACE: "another machine's", docker_engine.OWNER: "m2gym-000000000000"}
    strange = host.api.create_container(base, command=["true"], labels=labels)["Id"]
    dead = host.api.create_container(base, command=["true"], labels={**labels, PLACE: host.place})[
        "Id"
    ]
    try:
        removed = host.reap()
        assert [line for line in removed if line.startswith("container")] == [
            f"container {dead[:12]}"
        ]
        assert host.has_container(strange)
    finally:
        host.remove_container(strange)
        host.remove_container(dead)


async def test_a_killed_container_is_lost_and_not_a_result() -> None:
    box = make_workspace(WorkspaceSpec(), "docker")
    assert isinstance(box, DockerWorkspace)
    await box.start()
    running = asyncio.create_task(box.exec("sleep 60"))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(box._engine.remove_container, box.container)
    with pytest.raises(InfraError, match="died"):
        await running
    with pytest.raises(InfraError):
        await box.exec("true")
    await box.stop()


def test_an_engine_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/engine.sock")
    with pytest.raises(InfraError, match="systemctl start docker"):
        Engine()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(CapabilityError, match="on this machine"):
        Engine()


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("could not find an available, non-overlapping IPv4 address pool", "docker network prune"),
        ("write /var/lib/docker/x: no space left on device", "docker system prune"),
    ],
)
def test_the_engines_errors_come_with_their_mend(said: str, mend: str) -> None:
    import docker

    with pytest.raises(InfraError, match=mend), docker_engine.failures("creating a container"):
        raise docker.errors.APIError("500", explanation=said)


async def test_a_public_network_has_an_address() -> None:
    box = make_workspace(WorkspaceSpec(network="public"), "docker")
    try:
        assert "eth0" in (await box.exec("cat /proc/net/dev")).output
    finally:
        await box.stop()


async def test_the_box_is_bounded_by_the_engine() -> None:
    limits = Limits(memory_mb=64, processes=20, cpus=0.5)
    box = make_workspace(WorkspaceSpec(limits=limits), "docker")
    assert isinstance(box, DockerWorkspace)
    try:
        await box.start()
        held = engine().api.inspect_container(box.container)["HostConfig"]
        assert (held["Memory"], held["MemorySwap"]) == (64 << 20, 64 << 20)
        assert held["NanoCpus"] == 5 * 10**8
        assert held["NetworkMode"] == "none"
        assert held["CapDrop"] == ["ALL"]
        assert "no-new-privileges" in held["SecurityOpt"]
        balloon = ["python3", "-c", "x = bytearray(1 << 30)"]
        assert (await box.exec(balloon)).oom
    finally:
        await box.stop()


def test_doctor_reaps_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    host = engine()
    labels = {PLACE: host.place, docker_engine.OWNER: "m2gym-000000000001"}
    base = image_of(host, WorkspaceSpec())
    dead = host.api.create_container(base, command=["true"], labels=labels)["Id"]
    command = [sys.executable, "-m", "m2gym", "doctor", "--reap", "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"container {dead[:12]}" in told
    assert not host.has_container(dead)


@pytest.mark.parametrize("image", [None, small_image.NAME])
async def test_without_a_compiler(image: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2GYM_SUPERVISOR", "python")
    if image is not None:
        small_image.make_image()
    limits = Limits(memory_mb=64, processes=20)
    box = make_workspace(WorkspaceSpec(image=image, limits=limits), "docker")
    try:
        assert (await box.exec("id -u; cat; exit 3", stdin=b"in\n")).output == "1000\nin\n"
        late = await box.exec("setsid sleep 9894 & sleep 9894", timeout=0.5)
        assert late.timed_out
        assert not (await box.exec("grep -s '989[4]' /proc/[0-9]*/cmdline")).ok
        assert (await box.exec("grep -c CapEff.*404fb /proc/self/status", user="root")).ok
        group = (await box.exec("cat /proc/self/cgroup")).output
        assert "docker" in group
        shell = await box.shell()
        await shell.run("cd /tmp")
        assert (await shell.run("pwd")).stdout == b"/tmp\n"
        await box.write("d/f", b"1")
        assert await box.read("d/f") == b"1"
    finally:
        await box.stop()
