"""Limits of a whole box: memory, processes, disk and processor time."""

import asyncio
import os
from pathlib import Path

import pytest

import m2gym.workspaces.local  # noqa: F401  (bound before a test replaces `hierarchy`)
from m2gym.core.errors import InfraError
from m2gym.core.task import Limits
from m2gym.workspaces import limits as module
from m2gym.workspaces.limits import hierarchy, make_group, rlimits
from m2gym.workspaces.quota import used
from m2gym.workspaces.state import remove_tree
from tests.descriptors import open_files

from .conftest import MakeBox, need

BALLOON = "x=x; while :; do x=$x$x; done"


async def test_a_balloon_is_killed_and_the_shell_lives(needs_local: None, make: MakeBox) -> None:
    need("cgroup", "memory" in hierarchy().has, "no memory control group here")
    box = await make("local", limits={"memory_mb": 64})
    shell = await box.shell()
    await shell.run("kept=1")
    result = await shell.run(
        "head -c 400000000 /dev/zero | tail -c 300000000 | wc -c; f() { return 5; }; f"
    )
    assert result.oom
    assert (await shell.run("echo $kept")).stdout == b"1\n"
    fresh = await box.exec(BALLOON, timeout=60)
    assert (fresh.exit_code, fresh.oom) == (137, True)
    calm = await box.exec("exit 3")
    assert (calm.exit_code, calm.oom) == (3, False)


async def test_a_balloon_without_control_groups(
    needs_local: None, make: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "hierarchy", lambda: module.Hierarchy(0))
    box = await make("local", limits={"memory_mb": 64})
    result = await box.exec(BALLOON, timeout=60)
    assert result.exit_code != 0
    assert not result.timed_out
    assert (await box.exec("echo ok")).stdout == b"ok\n"


@pytest.mark.parametrize("grouped", [True, False])
async def test_a_fork_bomb_stays_in_its_bounds(
    needs_local: None, make: MakeBox, monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    if grouped:
        need("cgroup", "pids" in hierarchy().has, "no pids control group here")
    else:
        monkeypatch.setattr(module, "hierarchy", lambda: module.Hierarchy(0))
    box = await make("local", limits={"processes": 40})
    result = await box.exec(
        "bomb() { bomb | bomb & }; bomb; sleep 1; ls -d /proc/[0-9]* | wc -l; sleep 30", timeout=3
    )
    assert result.timed_out
    left = await box.exec("ls -d /proc/[0-9]* | wc -l")
    assert int(left.stdout) < 12
    box_two = await make("local", limits={"processes": 40})
    assert (await box_two.exec("echo ok")).stdout == b"ok\n"


async def test_one_file_is_bounded_at_once(needs_local: None, make: MakeBox) -> None:
    box = await make("local", limits={"disk_mb": 4})
    result = await box.exec("head -c 20000000 /dev/zero > big; s=$?; stat -c %s big; exit $s")
    assert result.exit_code != 0
    assert int(result.stdout) <= 4 << 20


async def test_the_sum_of_files_is_bounded(kind: str, make: MakeBox) -> None:
    box = await make(kind, limits={"disk_mb": 4})
    script = "i=0; while :; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); sleep 0.1; done"
    result = await box.exec(script, timeout=60)
    assert result.exit_code == 137
    assert b"disk limit of 4 MiB" in result.stderr
    assert (await box.exec("rm -f f*; echo ok")).stdout.endswith(b"ok\n")
    await asyncio.sleep(1.2)
    assert (await box.exec("sleep 1; echo fine")).stdout == b"fine\n"


def test_files_at_any_depth_are_counted(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("folder", dir_fd=fd)
        below = os.open("folder", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    try:
        before = used(top, 1 << 40)
        file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.write(file, b"x" * (1 << 20))
        os.fsync(file)
        os.close(file)
        os.close(fd)
        files = open_files()
        assert used(top, 1 << 40) >= before + (1 << 20)
        assert open_files() <= files
        assert used(tmp_path / "none", 1) == 0
    finally:
        assert remove_tree(top), "pytest itself cannot remove a tree this deep"


async def test_processor_time_of_a_process(kind: str, make: MakeBox) -> None:
    box = await make(kind, limits={"cpu_seconds": 1})
    result = await box.exec("while :; do :; done", timeout=60)
    assert result.exit_code == 128 + 9 or result.exit_code == 128 + 24
    assert not result.timed_out


async def test_processor_time_of_the_whole_box(needs_local: None, make: MakeBox) -> None:
    need("cgroup", counts_time(), "no control group counts processor time here")
    box = await make("local", limits={"cpu_seconds": 2})
    short = "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done"
    result = await box.exec(f"while :; do bash -c '{short}'; done", timeout=100)
    assert (result.exit_code, result.timed_out) == (137, False)
    assert b"limit of 2 s of processor time" in result.stderr
    calm = await box.exec("sleep 1.5; echo fine")
    assert (calm.exit_code, calm.stdout) == (0, b"fine\n")


def counts_time() -> bool:
    group = make_group(f"m2gym-test-time-{os.getpid()}", Limits(cpu_seconds=1))
    if group is None:
        return False
    try:
        return group.version == 2 or "cpuacct" in group.folders
    finally:
        group.remove()


async def test_a_share_of_processors(needs_local: None, make: MakeBox) -> None:
    need("cgroup", "cpu" in hierarchy().has, "no cpu control group here")
    box = await make("local", limits={"cpus": 0.1})
    script = "end=$((SECONDS+2)); while [ $SECONDS -lt $end ]; do :; done; cat /proc/self/stat"
    result = await box.exec(f"({script}); times", timeout=60)
    used = result.stdout.decode().splitlines()[-1].split()[0]
    minutes, seconds = used.rstrip("s").split("m")
    assert int(minutes) * 60 + float(seconds) < 1.0


def test_groups_are_made_and_removed() -> None:
    need("cgroup", bool(hierarchy().parents), "no control group here")
    group = make_group(f"m2gym-test-{os.getpid()}", Limits(memory_mb=64, processes=10, cpus=0.5))
    assert group is not None
    assert all(folder.is_dir() for folder in group.folders.values())
    assert group.oom_kills() == 0
    group.remove()
    assert not any(folder.exists() for folder in group.folders.values())
    group.remove()


def test_a_group_that_cannot_be_set_up_is_an_infra_error() -> None:
    need("cgroup", bool(hierarchy().parents), "no control group here")
    name = f"m2gym-test-twice-{os.getpid()}"
    group = make_group(name, Limits())
    assert group is not None
    with pytest.raises(InfraError, match=name):
        make_group(name, Limits())
    group.remove()


def test_fallback_limits() -> None:
    limits = Limits(memory_mb=64, processes=40, disk_mb=8, cpu_seconds=2.5)
    assert rlimits(limits, grouped=True, own_namespace=True) == (-1, -1, 8 << 20, 2)
    alone = rlimits(limits, grouped=False, own_namespace=True)
    assert alone[1:] == (64 << 20, 8 << 20, 2)
    assert rlimits(Limits(disk_mb=None), grouped=True, own_namespace=True) == (-1, -1, -1, -1)
