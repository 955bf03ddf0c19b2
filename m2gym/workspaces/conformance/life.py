"""Life of a box: the files it starts with, snapshot and fork, the end."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from m2gym.core.errors import InfraError, InputError
from m2gym.workspaces.conformance.boxes import Boxes, checked, needs


def tree(folder: Path) -> Path:
    """A small work folder."""
    root = folder / "tree"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.py").write_text("print('hi')\n")
    (root / "run.sh").write_text("#!/bin/bash\necho ran\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("src/main.py")
    return root


class Life(Boxes):
    """`start`, `snapshot`, `restore`, `fork` and `stop`."""

    @checked
    async def test_the_work_folder_starts_with_the_tree(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = tree(Path(name))
            box = await self.box(root=root)
            began = await box.exec("./run.sh; cat link; stat -c %a run.sh")
            assert began.stdout == b"ran\nprint('hi')\n755\n"
            assert (await box.exec("echo x > src/main.py; rm run.sh; touch new")).ok
            assert (root / "run.sh").exists()
            pristine = await self.box(root=root)
            listed = await pristine.exec("ls; cat src/main.py")
            assert listed.stdout == b"link\nrun.sh\nsrc\nprint('hi')\n"

    @checked
    async def test_a_changed_tree_is_seen(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = tree(Path(name))
            await self.box(root=root)
            (root / "src" / "main.py").write_text("print('ho')\n")
            assert await (await self.box(root=root)).read("src/main.py") == b"print('ho')\n"

    @checked
    @needs("fork")
    async def test_restore_brings_files_back_and_ends_processes(self) -> None:
        box = await self.box()
        await box.exec("echo 1 > a; mkdir -p d/e; echo h > ~/h")
        snapshot = await box.snapshot()
        await box.exec("(sleep 9880 &); rm -rf d; echo 2 > a; echo 3 > ~/h; touch b")
        await box.restore(snapshot)
        listed = await box.exec("cat a ~/h; find . | sort; grep -ls '988[0]' /proc/[0-9]*/cmdline")
        assert listed.stdout == b"1\nh\n.\n./a\n./d\n./d/e\n"
        await box.exec("rm a")
        await box.restore(snapshot)
        assert await box.read("a") == b"1\n"
        await snapshot.discard()
        await snapshot.discard()
        with pytest.raises(InputError):
            await box.restore(snapshot)
        assert await box.read("a") == b"1\n"

    @checked
    @needs("fork")
    async def test_a_snapshot_does_not_disturb(self) -> None:
        box = await self.box()
        shell = await box.shell()
        await shell.run("x=1; sleep 60 & echo > f")
        snapshot = await box.snapshot()
        assert (await shell.run("echo $x; jobs | wc -l")).stdout == b"1\n1\n"
        await snapshot.discard()

    @checked
    @needs("fork")
    async def test_forks_are_independent(self) -> None:
        box = await self.box()
        await box.exec("echo parent > f")
        forks = self.keep(await box.fork(3))
        for n, fork in enumerate(forks):
            assert (await fork.exec(f"cat f; echo {n} > f")).stdout == b"parent\n"
        assert await box.read("f") == b"parent\n"
        assert [await fork.read("f") for fork in forks] == [b"0\n", b"1\n", b"2\n"]
        (deeper,) = self.keep(await forks[1].fork(1))
        await box.stop()
        await forks[1].stop()
        assert await deeper.read("f") == b"1\n"
        with pytest.raises(InputError):
            await deeper.fork(0)

    @checked
    async def test_stop_is_idempotent_and_final(self) -> None:
        box = await self.box()
        waiting = asyncio.create_task(box.exec("sleep 9890"))
        await asyncio.sleep(0.5)
        await asyncio.gather(box.stop(), box.stop())
        await box.stop()
        with pytest.raises(InfraError):
            await waiting
        with pytest.raises(InfraError):
            await box.exec("true")
        with pytest.raises(InfraError):
            await box.start()

    @checked
    async def test_a_box_that_was_never_started_can_be_stopped(self) -> None:
        await self.unstarted().stop()

    @checked
    async def test_nothing_is_left_behind(self) -> None:
        box = await self.box()
        await box.exec("setsid sleep 9892 & touch f")
        await box.stop()
        assert await self.leftovers(box) == []

    @checked
    async def test_boxes_at_once(self) -> None:
        boxes = await asyncio.gather(*(self.box() for _ in range(4)))
        await asyncio.gather(*(box.write("n", str(n).encode()) for n, box in enumerate(boxes)))
        told = await asyncio.gather(*(box.exec("cat n") for box in boxes))
        assert [result.stdout for result in told] == [b"0", b"1", b"2", b"3"]
