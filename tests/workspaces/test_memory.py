"""Files in memory: read, write, tar, fork; graded like any box; nothing runs."""

import io
import tarfile

import pytest

import m2gym
from m2gym.core.errors import CapabilityError, WorkspaceLostError
from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces import make_workspace


async def started(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.txt").write_text("a")
    (tmp_path / "run.sh").write_text("x")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "l").symlink_to("d/a.txt")
    box = make_workspace(WorkspaceSpec(root=tmp_path), "files")
    await box.start()
    return box


async def test_files(tmp_path):
    box = await started(tmp_path)
    assert await box.read("d/a.txt") == await box.read("/workspace/d/a.txt") == b"a"
    await box.write("new/x", b"1", mode=0o755)
    with tarfile.open(fileobj=io.BytesIO(await box.export(["."]))) as tar:
        assert tar.getnames() == ["d/a.txt", "l", "new/x", "run.sh"]
        assert tar.getmember("l").linkname == "d/a.txt"
        assert tar.getmember("run.sh").mode == 0o755
    [child] = await box.fork(1)
    moment = await box.snapshot()
    await box.exec(["rm", "-rf", "--", "d", "missing"])
    with pytest.raises(FileNotFoundError):
        await box.read("d/a.txt")
    assert await child.read("d/a.txt") == b"a"
    await box.restore(moment)
    assert await box.read("new/x") == b"1"
    await child.unpack(await box.export(["new"]), path="into")
    assert await child.read("into/new/x") == b"1"
    await box.exec(["find", ".", "-mindepth", "1", "-delete"])
    assert (await box.export(["."])).count(b"a.txt") == 0
    await box.stop()
    await box.stop()
    with pytest.raises(WorkspaceLostError):
        await box.read("new/x")


async def test_nothing_runs_and_nothing_lies_outside(tmp_path):
    box = await started(tmp_path)
    for attempt in (box.exec("true"), box.exec(["ls"]), box.spawn("x"), box.shell(), box.listen(1)):
        with pytest.raises(CapabilityError, match="runs no commands"):
            await attempt
    for path in ("../x", "/etc/passwd"):
        with pytest.raises(PermissionError):
            await box.read(path)
        with pytest.raises(PermissionError):
            await box.write(path, b"")
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../out"), io.BytesIO())
    with pytest.raises(PermissionError):
        await box.unpack(evil.getvalue())


class Leaves:
    name = "leaves"

    async def run(self, episode):
        await episode.workspace.write("out.txt", b"yes")
        await episode.submit()


@pytest.mark.parametrize("artifacts", [(".",), ("out.txt",)])
def test_an_episode_is_graded(tmp_path, artifacts):
    m2gym.reward("left-yes")(lambda artifacts: float(artifacts.text("out.txt") == "yes"))
    name = f"in-memory-{len(artifacts[0])}"
    task = m2gym.Task(id="t", instruction="Say yes.", files={"a": "x"}, artifacts=artifacts)
    m2gym.register(name, tasks=[task], rewards=["left-yes"])
    run = m2gym.evaluate(
        name, agent=Leaves(), workspace="files", out=tmp_path / "r", progress=False
    )
    assert run.score == 1
    assert [t.workspace for t in run] == ["files"]
