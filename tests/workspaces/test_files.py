# ruff: noqa: PTH208
"""Files put in and taken out by the host, against hostile links, names and archives."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import InputError
from m2gym.workspaces.files import MAX_LEVELS, TooDeepError, TooLargeError, Tree
from m2gym.workspaces.supervised import SupervisedWorkspace

from .conftest import MakeBox

Box = SupervisedWorkspace


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def names(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getnames()


async def test_write_and_read(box: Box) -> None:
    await box.write("a/b/c.bin", b"\0\xff", mode=0o750)
    assert await box.read("a/b/c.bin") == b"\0\xff"
    stat = await box.exec("stat -c '%a %U' a/b/c.bin a/b; cat a/b/c.bin | wc -c")
    assert stat.stdout.split()[0] == b"750"
    assert stat.stdout.split()[-1] == b"2"
    if box.kind == "local":
        assert stat.stdout.split()[1] == b"agent"
    await box.write("a/b/c.bin", b"new")
    assert (await box.exec("cat a/b/c.bin")).stdout == b"new"
    assert (await box.exec("echo more >> a/b/c.bin && cat a/b/c.bin")).stdout == b"newmore\n"


async def test_missing_and_wrong_kinds(box: Box) -> None:
    await box.exec("mkdir d; mkfifo pipe; echo > f")
    with pytest.raises(FileNotFoundError):
        await box.read("none")
    with pytest.raises(FileNotFoundError):
        await box.read("no/such/folder/x")
    with pytest.raises(IsADirectoryError):
        await box.read("d")
    with pytest.raises(OSError, match="regular"):
        await box.read("pipe")
    with pytest.raises(NotADirectoryError):
        await box.read("f/x")
    with pytest.raises(InputError, match="NUL"):
        await box.read("a\0b")


async def test_absolute_paths_below_the_work_folder(box: Box) -> None:
    await box.write("/workspace/x", b"1")
    assert await box.read("x") == b"1"
    assert await box.read("/workspace/../workspace/x") == b"1"


@pytest.mark.parametrize(
    "link",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "/home/grader/x",
        "..",
        "/proc/1/root/etc/passwd",
    ],
)
async def test_links_lead_nowhere_outside(box: Box, link: str, tmp_path: Path) -> None:
    await box.exec(["ln", "-s", link, "out"])
    await box.exec(["ln", "-s", str(tmp_path), "host"])
    for path in ("out", "out/x", "host/x"):
        with pytest.raises(OSError, match=r"outside|regular|No such|Is a"):
            await box.read(path)
        if path != "out":
            with pytest.raises(OSError, match=r"outside|No such|Not a"):
                await box.write(path, b"x")
    assert os.listdir(tmp_path) == []


async def test_links_inside_are_followed_and_loops_end(box: Box) -> None:
    await box.write("real/f", b"1")
    folder = box.inner_workdir
    await box.exec(
        f"ln -s real r; ln -s {folder}/real/f abs; ln -s ../real/f real/up; ln -s b a; ln -s a b"
    )
    assert await box.read("r/f") == b"1"
    assert await box.read("abs") == b"1"
    assert await box.read("real/up") == b"1"
    await box.write("r/g", b"2")
    assert await box.read("real/g") == b"2"
    with pytest.raises(OSError, match="symbolic links"):
        await box.read("a")


async def test_export_takes_what_is_there(box: Box) -> None:
    await box.exec(
        "mkdir -p d/e; echo 1 > d/e/f; chmod 600 d/e/f; ln -s /etc/passwd l; mkfifo p; "
        "touch 'a\nb' ü; "
        "ln -s / rootlink"
    )
    tar = await box.export(["."])
    assert set(names(tar)) == {".", "d", "d/e", "d/e/f", "l", "a\nb", "ü", "rootlink"}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getmember("l").issym()
        assert archive.getmember("d/e/f").mode == 0o600
    assert names(await box.export(["d/e", "none", "rootlink/etc/passwd", "l"])) == [
        "d/e",
        "d/e/f",
        "l",
    ]
    assert names(await box.export([])) == []
    with pytest.raises(InputError, match="below"):
        await box.export(["../x"])


async def test_export_is_bounded(kind: str, make: MakeBox) -> None:
    box = await make(kind, limits={"disk_mb": 2})
    await box.exec("for i in 1 2 3; do truncate -s 1500000 sparse$i; done")
    with pytest.raises(TooLargeError, match="at most"):
        await box.export(["."])


async def test_unpack_round_trip(kind: str, make: MakeBox, box: Box) -> None:
    await box.exec("mkdir -p d; echo 1 > d/f; chmod 755 d/f; ln -s f d/l; touch 'a\nb' ü")
    other = await make(kind)
    await other.exec("mkdir l; echo old > d; touch l/x")
    await other.unpack(await box.export(["."]))
    listed = await other.exec("stat -c '%n %a %F' d/f d/l; cat d/l; ls")
    assert b"d/f 755 regular file" in listed.stdout
    assert b"d/l 777 symbolic link" in listed.stdout
    assert await other.read("a\nb") == b""
    await other.unpack(await box.export(["d"]), path="sub/folder")
    assert await other.read("sub/folder/d/f") == b"1\n"


@pytest.mark.parametrize(
    ("info", "data"),
    [
        (member("../x"), b"1"),
        (member("/etc/x"), b"1"),
        (member("a/../../x"), b"1"),
        (member("x", tarfile.LNKTYPE, "../../etc/passwd"), b""),
        (member("x", tarfile.CHRTYPE), b""),
        (member("x", tarfile.FIFOTYPE), b""),
    ],
)
async def test_hostile_members_are_refused_before_writing(
    box: Box, info: tarfile.TarInfo, data: bytes
) -> None:
    with pytest.raises(InputError, match="refused"):
        await box.unpack(tar_of((member("good"), b"1"), (info, data)))
    assert (await box.exec("ls -A")).stdout == b""


async def test_members_never_pass_through_links(box: Box, tmp_path: Path) -> None:
    await box.exec(["ln", "-s", str(tmp_path), "there"])
    await box.unpack(tar_of((member("there/x"), b"1")))
    assert os.listdir(tmp_path) == []
    assert await box.read("there/x") == b"1"
    link = member("sneaky", tarfile.SYMTYPE, str(tmp_path))
    await box.unpack(tar_of((link, b""), (member("sneaky/y"), b"1")))
    assert os.listdir(tmp_path) == []


async def test_broken_archives(box: Box) -> None:
    for data in (b"", b"not a tar", b"x" * 2000):
        with pytest.raises(InputError, match="tar"):
            await box.unpack(data)


async def test_files_are_taken_without_the_agents_tools(box: Box) -> None:
    await box.exec(
        "echo 1 > f; mkdir bin; printf '#!/bin/sh\\necho forged' > bin/tar; chmod +x bin/tar"
    )
    await box.spawn("while :; do mv f g; mv g f; done")
    for _ in range(20):
        tar = await box.export(["f", "g"])
        assert set(names(tar)) <= {"f", "g"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "..", ".", "l", "up", "root", "x", ""]), max_size=7))
def test_no_path_leaves_the_tree(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    base = tmp_path_factory.mktemp("t")
    (base / "secret").write_text("secret")
    root = base / "root"
    (root / "work" / "a" / "b").mkdir(parents=True)
    (root / "secret").write_text("box")
    (root / "work" / "l").symlink_to("a/b")
    (root / "work" / "up").symlink_to("../..")
    (root / "work" / "root").symlink_to("/")
    (root / "work" / "a" / "x").write_text("fine")
    tree = Tree(os.open(root, os.O_RDONLY), "/work", [])
    try:
        assert tree.read("/".join([*parts, "secret"])) == b"box"
    except OSError:
        pass
    finally:
        tree.close()


def dig(box: Box, depth: int) -> None:
    """Nest folders in the box's work folder: ``x/d/d/…/f``."""
    fd = os.open(box.tree.workdir.lstrip("/"), os.O_RDONLY, dir_fd=box.tree.root)
    for name in ["x"] + ["d"] * depth:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


async def test_folders_too_deep_are_refused_and_removed(box: Box) -> None:
    dig(box, 1500)
    with pytest.raises(TooDeepError, match=f"at most {MAX_LEVELS}"):
        await box.export(["."])
    with pytest.raises(TooDeepError):
        await box.snapshot()
    with pytest.raises(TooDeepError):
        await box.read("x/" + "d/" * 300 + "f")
    await box.unpack(tar_of((member("x"), b"file")))
    assert await box.read("x") == b"file"
    await box.exec("rm x")
    dig(box, 200)
    assert "x/" + "d/" * 200 + "f" in names(await box.export(["."]))
    await box.unpack(tar_of((member("x"), b"file")))
    await box.exec("rm x")
    dig(box, 1500)
    folder = box.scratch()
    assert folder.exists()
    await box.stop()
    assert not folder.exists()


async def test_deep_folders_of_a_snapshot_are_replaced(box: Box) -> None:
    dig(box, 100)
    snapshot = await box.snapshot()
    await box.restore(snapshot)
    await box.unpack(tar_of((member("x"), b"file")))
    assert await box.read("x") == b"file"
