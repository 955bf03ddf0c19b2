# ruff: noqa: ASYNC240
"""Start, stop, death and what is left behind: nothing."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2gym.core.errors import InfraError, UnknownIdError, WorkspaceLostError
from m2gym.core.task import Limits, WorkspaceSpec
from m2gym.workspaces import check, make_workspace
from m2gym.workspaces.limits import hierarchy
from m2gym.workspaces.local import LocalWorkspace
from m2gym.workspaces.state import State, sweep
from tests.descriptors import open_files

from .conftest import MakeBox

ROOT = Path(__file__).parents[2]


def traces(box: LocalWorkspace) -> list[str]:
    """What of a box can still be found on the host."""
    name = f"{box._state.owner}-{box.name}"
    found = [str(p) for parent in hierarchy().parents.values() for p in parent.glob(f"{name}*")]
    if box.folder.exists():
        found.append(str(box.folder))
    found += [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(box.folder) in line
    ]
    return found


async def test_stop_leaves_nothing_and_is_idempotent(needs_local: None, make: MakeBox) -> None:
    warm = await make("local")
    await warm.exec("true")
    gc.collect()
    before = open_files()
    box = await make("local", limits={"cpus": 1.0} if "cpu" in hierarchy().has else {})
    assert isinstance(box, LocalWorkspace)
    shell = await box.shell()
    await shell.run("sleep 600 & setsid sleep 600 &")
    process = await box.spawn("sleep 600")
    snapshot = await box.snapshot()
    await snapshot.discard()
    pids = box.host_pids()
    assert len(pids) == 2
    assert traces(box)
    await box.stop()
    await box.stop()
    with pytest.raises(WorkspaceLostError):
        await process.wait()
    assert traces(box) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    await shell.close()
    del process
    assert open_files() <= before
    for call in (box.exec("true"), box.read("x"), box.start(), box.snapshot(), shell.run("true")):
        with pytest.raises(WorkspaceLostError, match="stopped"):
            await call


async def test_stop_before_start(kind: str) -> None:
    box = make_workspace(WorkspaceSpec(), kind)
    await box.stop()
    with pytest.raises(WorkspaceLostError):
        await box.start()


async def test_a_box_that_dies_never_hangs(needs_local: None, make: MakeBox) -> None:
    box = await make("local")
    assert isinstance(box, LocalWorkspace)
    shell = await box.shell()
    process = await box.spawn("sleep 600")
    waits = [
        asyncio.create_task(box.exec("sleep 600")),
        asyncio.create_task(shell.run("sleep 600")),
        asyncio.create_task(process.wait()),
    ]
    await asyncio.sleep(0.3)
    os.kill(box.host_pids()[1], signal.SIGKILL)
    for wait in waits:
        with pytest.raises(WorkspaceLostError, match="died"):
            await asyncio.wait_for(wait, 10)
    for call in (box.exec("true"), shell.run("true"), box.kill(), box.listen(0)):
        with pytest.raises(WorkspaceLostError):
            await asyncio.wait_for(call, 10)
    await box.stop()
    assert traces(box) == []


async def test_a_box_that_cannot_start_says_why(needs_local: None, make: MakeBox) -> None:
    box = LocalWorkspace(WorkspaceSpec(workdir="/usr/none/below"))
    with pytest.raises(WorkspaceLostError, match=r"could not be started: .*none"):
        await box.start()
    await box.stop()
    assert traces(box) == []


async def test_starting_twice_at_once_gives_one_box(needs_local: None, make: MakeBox) -> None:
    box = LocalWorkspace(WorkspaceSpec())
    try:
        await asyncio.gather(box.start(), box.start(), box.exec("true"))
        assert (await box.exec("echo ok")).stdout == b"ok\n"
    finally:
        await box.stop()


async def test_thirty_boxes_at_once(needs_local: None) -> None:
    boxes = [LocalWorkspace(WorkspaceSpec()) for _ in range(30)]
    try:
        results = await asyncio.gather(*(box.exec(f"echo {n}") for n, box in enumerate(boxes)))
        assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(30)]
    finally:
        await asyncio.gather(*(box.stop() for box in boxes))
    assert [trace for box in boxes for trace in traces(box)] == []


SCRIPT = """
import asyncio, os, sys, time
from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces import make_workspace
async def main():
    box = make_workspace(WorkspaceSpec(), {kind!r})
    await box.start()
    await box.exec("(setsid sleep {mark} &) ; sleep 0.1")
    print(box.folder, flush=True)
    {end}
asyncio.run(main())
"""


def left(mark: str) -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"sleep\0" + mark.encode() in (folder / "cmdline").read_bytes():
                return True
    return False


@pytest.mark.parametrize(
    ("end", "mark"),
    [
        ("sys.exit(0)", "98811"),
        ("raise KeyboardInterrupt", "98812"),
        ("os.kill(os.getpid(), 9)", "98813"),
        ("os.kill(os.getpid(), 15); time.sleep(9)", "98814"),
    ],
)
def test_nothing_outlives_its_owner(kind: str, end: str, mark: str) -> None:
    script = SCRIPT.format(kind=kind, end=end, mark=mark)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    assert folder.name, done.stderr
    deadline = time.monotonic() + 15
    while left(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left(mark)
    if "os.kill" in end:
        sweep(folder.parents[2])
    assert not folder.exists()
    owner = folder.parents[1].name
    groups = [g for parent in hierarchy().parents.values() for g in parent.glob(f"{owner}*")]
    assert groups == []


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    alive = State(tmp_path)
    dead = tmp_path / "m2gym-dead"
    (dead / "boxes").mkdir(parents=True)
    (dead / "lock").touch()
    other = tmp_path / "something-else"
    other.mkdir()
    assert sweep(tmp_path) == ["m2gym-dead"]
    assert alive.path.exists()
    assert other.exists()
    alive.close()
    assert not alive.path.exists()


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    from m2gym.workspaces.state import _base

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"m2gym-{os.getuid()}").mkdir()
    (tmp_path / f"m2gym-{os.getuid()}").chmod(0o777)
    with pytest.raises(InfraError, match="nobody else"):
        _base()


def test_unknown_kind_names_the_known() -> None:
    with pytest.raises(UnknownIdError, match="local"):
        make_workspace(WorkspaceSpec(), "loca")


async def test_ones_own_kind() -> None:
    from m2gym.core.registry import WORKSPACES
    from m2gym.workspaces.process import ProcessWorkspace

    @WORKSPACES.decorator("test-own")
    class Own(ProcessWorkspace):
        kind = "test-own"

        def environment(self, user, extra):  # type: ignore[no-untyped-def]
            return super().environment(user, {"OWN": "1", **(extra or {})})

    box = make_workspace(WorkspaceSpec(), "test-own")
    assert isinstance(box, Own)
    assert (await box.exec("echo $OWN")).stdout == b"1\n"
    await box.stop()


def test_check_names_what_is_missing() -> None:
    with pytest.raises(Exception, match=r"limits\.cpu, network"):
        check(WorkspaceSpec(network="public", limits=Limits(cpus=1)), frozenset({"fork"}))
    check(WorkspaceSpec(), frozenset())
