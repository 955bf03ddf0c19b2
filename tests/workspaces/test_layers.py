"""Snapshot, restore and fork: files, independence and what they cost."""

import os
from pathlib import Path

import pytest

from m2gym.core.errors import InputError
from m2gym.workspaces import layers
from m2gym.workspaces.layers import copy_tree, fingerprint
from m2gym.workspaces.local import LocalWorkspace
from m2gym.workspaces.snapshot import Snapshot
from m2gym.workspaces.supervised import SupervisedWorkspace

from .conftest import MakeBox

Box = SupervisedWorkspace


async def test_the_work_folder_starts_with_the_tree(kind: str, make: MakeBox, tree: Path) -> None:
    box = await make(kind, root=tree)
    assert (
        await box.exec("./run.sh; cat link; stat -c %a run.sh")
    ).stdout == b"ran\nprint('hi')\n755\n"
    assert (await box.exec("echo x > src/main.py; rm run.sh; touch new")).ok
    assert (tree / "src" / "main.py").read_text() == "print('hi')\n"
    assert (tree / "run.sh").exists()
    pristine = await make(kind, root=tree)
    assert (
        await pristine.exec("ls; cat src/main.py")
    ).stdout == b"link\nrun.sh\nsrc\nprint('hi')\n"


async def test_a_changed_tree_is_seen(kind: str, make: MakeBox, tree: Path) -> None:
    await make(kind, root=tree)
    (tree / "src" / "main.py").write_text("print('ho')\n")
    box = await make(kind, root=tree)
    assert await box.read("src/main.py") == b"print('ho')\n"


async def test_the_tree_must_be_a_folder(needs_local: None, make: MakeBox, tree: Path) -> None:
    with pytest.raises(InputError, match="folder"):
        await make("local", root=tree / "run.sh")


async def test_restore_brings_everything_back(kind: str, make: MakeBox, tree: Path) -> None:
    box = await make(kind, root=tree)
    await box.exec(
        "echo 1 > a; rm run.sh; mkdir -p d/e; echo h > ~/h; rm -r src; mkdir src; echo n > src/n"
    )
    snapshot = await box.snapshot()
    shell = await box.shell()
    await shell.run("cd d/e; sleep 9880 &")
    await box.exec("rm -rf *; echo 2 > a; echo 3 > ~/h; touch b src")
    await box.restore(snapshot)
    listed = await box.exec("cat a ~/h; find . | sort; grep -ls '988[0]' /proc/[0-9]*/cmdline")
    assert listed.stdout == b"1\nh\n.\n./a\n./d\n./d/e\n./link\n./src\n./src/n\n"
    assert (await shell.run("pwd")).stdout.endswith(b"/d/e\n")
    await box.exec("rm a")
    await box.restore(snapshot)
    assert await box.read("a") == b"1\n"
    await snapshot.discard()
    await snapshot.discard()
    with pytest.raises(InputError, match="snapshot"):
        await box.restore(snapshot)
    assert await box.read("a") == b"1\n"


async def test_a_snapshot_does_not_disturb(kind: str, make: MakeBox) -> None:
    box = await make(kind)
    shell = await box.shell()
    await shell.run("x=1; sleep 60 & echo > f")
    snapshot = await box.snapshot()
    assert (await shell.run("echo $x; jobs | wc -l")).stdout == b"1\n1\n"
    await snapshot.discard()


async def test_forks_are_independent(kind: str, make: MakeBox, tree: Path) -> None:
    box = await make(kind, root=tree)
    await box.exec("echo parent > f; rm run.sh")
    forks = await box.fork(3)
    try:
        for n, fork in enumerate(forks):
            assert (await fork.exec(f"cat f; ls; echo {n} > f")).stdout == b"parent\nf\nlink\nsrc\n"
        assert await box.read("f") == b"parent\n"
        await box.exec("echo later > f")
        assert [await fork.read("f") for fork in forks] == [b"0\n", b"1\n", b"2\n"]
        (deeper,) = await forks[1].fork(1)
        assert await deeper.read("f") == b"1\n"
        await box.stop()
        await forks[1].stop()
        assert (await deeper.exec("cat f; cat src/main.py")).stdout == b"1\nprint('hi')\n"
        await deeper.stop()
    finally:
        for fork in forks:
            await fork.stop()
    with pytest.raises(InputError, match="at least one"):
        await forks[0].fork(0)


async def test_many_generations(kind: str, make: MakeBox) -> None:
    box: Box = await make(kind)
    for n in range(12):
        await box.exec(f"echo {n} > g{n}; rm -f g{n - 2}")
        (following,) = await box.fork(1)
        await box.stop()
        assert isinstance(following, SupervisedWorkspace)
        box = following
    assert (await box.exec("ls")).stdout == b"g10\ng11\n"
    await box.stop()


async def test_deep_stacks_are_merged(
    needs_local: None, make: MakeBox, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MAX_DEPTH", 4)
    box = await make("local", root=tree)
    for n in range(9):
        await box.exec(f"echo {n} > g{n}; rm -f g{n - 2}; echo {n} > ~/h; rm -rf src; mkdir src")
        snapshot = await box.snapshot()
        assert isinstance(snapshot, Snapshot)
        assert len(snapshot.content.layers) <= 4
        await box.restore(snapshot)
        await snapshot.discard()
    assert (
        await box.exec("ls -A . src; cat ~/h; stat -c %U src ~/h; touch src/x")
    ).stdout.split() == (b".: g7 g8 link run.sh src src: 8 agent agent".split())


async def test_a_snapshot_costs_what_changed(needs_local: None, make: MakeBox, tree: Path) -> None:
    (tree / "big").write_bytes(bytes(30 << 20))
    box = await make("local", root=tree)
    assert isinstance(box, LocalWorkspace)
    if not box._able.overlay:
        pytest.skip("overlay mounts are refused here")
    await box.exec("echo 1 > small")
    snapshot = await box.snapshot()
    assert isinstance(snapshot, Snapshot)
    top = snapshot.content.layers[-1].path
    assert [p.name for p in (top / "work").iterdir()] == ["small"]
    await snapshot.discard()
    assert not top.exists()


async def test_owners_modes_and_times_survive(needs_users: None, make: MakeBox) -> None:
    box = await make("local")
    await box.exec("echo g > ~/g; chmod 640 ~/g; touch -d @1000 ~/g", user="grader")
    await box.exec("echo a > a; chmod 751 a; ln -s a l; mkdir -m 700 d")
    (fork,) = await box.fork(1)
    shown = await fork.exec(
        "stat -c '%n %U %a %Y' /home/grader/g; stat -c '%n %U %a' a l d", user="root"
    )
    assert (
        shown.stdout == b"/home/grader/g grader 640 1000\na agent 751\nl agent 777\nd agent 700\n"
    )
    await fork.stop()


def test_fingerprint_sees_every_change(tree: Path) -> None:
    seen = {fingerprint(tree)}
    assert fingerprint(tree) in seen
    for change in (
        lambda: (tree / "src" / "main.py").write_text("x"),
        lambda: (tree / "run.sh").chmod(0o700),
        lambda: (tree / "run.sh").rename(tree / "run2.sh"),
        lambda: os.utime(tree / "run2.sh", (1, 1)),
        lambda: (tree / "empty").mkdir(),
    ):
        change()
        assert fingerprint(tree) not in seen
        seen.add(fingerprint(tree))


def test_copies_are_whole(tree: Path, tmp_path: Path) -> None:
    (tree / "ü\n").write_bytes(os.urandom(3 << 20))
    os.mkfifo(tree / "pipe")
    copy_tree(tree, tmp_path / "copy", None)
    copied = tmp_path / "copy"
    assert (copied / "ü\n").read_bytes() == (tree / "ü\n").read_bytes()
    assert (copied / "link").readlink() == Path("src/main.py")
    assert (copied / "run.sh").stat().st_mode == (tree / "run.sh").stat().st_mode
    assert not (copied / "pipe").exists()
