"""What owners leave behind is removed, whatever its depth and modes, and never stops the next."""

import os
from pathlib import Path

import pytest

from m2gym.workspaces.state import State, remove_tree, sweep
from tests.descriptors import open_files


def dig(top: Path, depth: int) -> None:
    """Folders within folders, each with a file, a closed folder and a link beside."""
    top.mkdir(parents=True)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        os.mkdir("closed", 0o000, dir_fd=fd)
        os.symlink("/", "link", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@pytest.mark.parametrize("depth", [0, 10, 1500])
def test_a_tree_of_any_depth_is_removed(tmp_path: Path, depth: int) -> None:
    before = open_files()
    dig(tmp_path / "x", depth)
    assert remove_tree(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert remove_tree(tmp_path / "x")
    assert open_files() <= before


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "f").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "link").symlink_to(kept)
    assert remove_tree(tmp_path / "x")
    assert remove_tree(tmp_path / "none")
    assert (kept / "f").exists()


def test_close_removes_deep_leftovers(tmp_path: Path) -> None:
    state = State(tmp_path)
    dig(state.path / "boxes" / "b1" / "u", 1500)
    state.close()
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_deep_leftovers(tmp_path: Path) -> None:
    dig(tmp_path / "m2gym-dead" / "boxes" / "b1", 1500)
    (tmp_path / "m2gym-dead" / "lock").touch()
    assert sweep(tmp_path) == ["m2gym-dead"]
    assert list(tmp_path.iterdir()) == []


def test_sweep_warns_of_what_it_cannot_remove_and_goes_on(tmp_path: Path) -> None:
    for name in ("m2gym-a", "m2gym-c"):
        (tmp_path / name / "boxes").mkdir(parents=True)
        (tmp_path / name / "lock").touch()
    (tmp_path / "m2gym-b" / "lock").mkdir(parents=True)
    (tmp_path / "m2gym-file").touch()
    with pytest.warns(RuntimeWarning, match="not removable") as caught:
        assert sorted(sweep(tmp_path)) == ["m2gym-a", "m2gym-c"]
    assert len(caught) == 1
    assert (tmp_path / "m2gym-b").exists()


def test_the_lock_stays_while_anything_is_left(tmp_path: Path) -> None:
    bad = tmp_path / "m2gym-bad"
    (bad / "boxes").mkdir(parents=True)
    (bad / "lock").touch()
    if os.getuid() != 0 or os.system(f"mount -t tmpfs none {bad / 'boxes'} 2>/dev/null") != 0:
        pytest.skip("needs a mount, which nothing can remove")
    try:
        with pytest.warns(RuntimeWarning, match="m2gym-bad"):
            assert sweep(tmp_path) == []
        assert (bad / "lock").exists()
    finally:
        os.system(f"umount {bad / 'boxes'}")
    assert sweep(tmp_path) == ["m2gym-bad"]
