import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from m2gym.tasksets.registry import sdist
from m2gym.tasksets.registry.sdist import PackageRejectedError, is_changelog, layout, unpack
from tests.tasksets.conftest import tar_of


def _members(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize("name", ["../evil", "top/../../evil", "/abs/evil"])
def test_a_member_outside_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(tar_of({"top/ok": "1", name: "bad"}))
    (tmp_path / "in").mkdir()
    with pytest.raises(PackageRejectedError, match="outside the archive"):
        unpack(archive, "a.tar.gz", tmp_path / "in")
    assert {p.name for p in tmp_path.rglob("*")} <= {"a.tar.gz", "in", "ok"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([_link("top/l", "/etc/passwd")], "leads outside"),
        ([_link("top/l", "../../x")], "leads outside"),
        ([_link("top/l", "../x", tarfile.LNKTYPE)], "leads outside"),
        ([_link("top/a", "b"), _link("top/b", "a")], "is a loop"),
        ([_link("top/a", "absent")], "is absent"),
        ([_link("top/pipe", "", tarfile.FIFOTYPE)], "neither file nor folder"),
        ([_link("top/device", "", tarfile.CHRTYPE)], "neither file nor folder"),
    ],
)
def test_links_outside_loops_and_devices_are_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], reason: str
) -> None:
    archive = _members(tmp_path / "a.tar.gz", *members)
    with pytest.raises(PackageRejectedError, match=reason):
        unpack(archive, "a.tar.gz", tmp_path / "in")


def test_a_link_inside_becomes_a_copy(tmp_path: Path) -> None:
    file = (tarfile.TarInfo("top/d/f"), b"text")
    archive = _members(tmp_path / "a.tar.gz", file, _link("top/l", "d/f"))
    unpack(archive, "a.tar.gz", tmp_path / "in")
    assert (tmp_path / "in" / "l").read_bytes() == b"text"
    assert not (tmp_path / "in" / "l").is_symlink()


def test_a_wheel_with_a_member_outside_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w") as wheel:
        wheel.writestr("../evil.py", "bad")
    with pytest.raises(PackageRejectedError, match="outside the archive"):
        unpack(tmp_path / "w", "p-1-py3-none-any.whl", tmp_path / "in")
    assert not (tmp_path / "evil.py").exists()


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdist, "MAX_BYTES", 1000)
    (tmp_path / "a.tar.gz").write_bytes(tar_of({"top/big": "x" * 1001}))
    with pytest.raises(PackageRejectedError, match="more than 1000 bytes"):
        unpack(tmp_path / "a.tar.gz", "a.tar.gz", tmp_path / "in")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(PackageRejectedError, match="not a readable archive"):
        unpack(tmp_path / "a.tar.gz", "a.tar.gz", tmp_path / "in")


def _tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.mark.parametrize(
    ("paths", "sources", "tests", "python_path"),
    [
        (["src/my_pkg/__init__.py", "tests/test_a.py"], ["src/my_pkg"], ["tests"], "src"),
        (["my_pkg/__init__.py", "docs/__init__.py", "test/a.py"], ["my_pkg"], ["test"], "."),
        (["my_pkg.py", "test_my_pkg.py", "setup.py"], ["my_pkg.py"], ["test_my_pkg.py"], "."),
        (["other/__init__.py", "other/tests/t.py"], ["other"], ["other/tests"], "."),
    ],
)
def test_layouts(
    tmp_path: Path, paths: list[str], sources: list[str], tests: list[str], python_path: str
) -> None:
    found = layout(_tree(tmp_path, *paths), "my-pkg")
    assert (list(found.sources), list(found.tests), found.python_path) == (
        sources,
        tests,
        python_path,
    )


def test_tests_inside_the_package_are_no_source(tmp_path: Path) -> None:
    found = layout(_tree(tmp_path, "my_pkg/__init__.py", "my_pkg/tests/t.py"), "my-pkg")
    assert found.is_source("my_pkg/__init__.py")
    assert found.is_test("my_pkg/tests/t.py")
    assert not found.is_source("my_pkg/tests/t.py")


@pytest.mark.parametrize(
    ("paths", "sources", "tests"),
    [
        (["src/my_pkg.py", "src/tests.py"], ["src/my_pkg.py"], ["src/tests.py"]),
        (["my_pkg.py", "my_pkg_test.py"], ["my_pkg.py"], ["my_pkg_test.py"]),
        (["my_pkg/__init__.py", "my_pkg/test.py"], ["my_pkg"], ["my_pkg/test.py"]),
        (["my_pkg/a/__init__.py", "my_pkg/a/tests/t.py"], ["my_pkg"], ["my_pkg/a/tests"]),
        (["src/my_pkg/test_a.py", "src/my_pkg/b.py"], ["src/my_pkg"], ["src/my_pkg/test_a.py"]),
    ],
)
def test_tests_may_be_a_module(
    tmp_path: Path, paths: list[str], sources: list[str], tests: list[str]
) -> None:
    tree = _tree(tmp_path, *paths)
    for path in paths:
        (tree / path).write_text("def test_it():\n    pass\n")
        if (tree / path).parent.name == "my_pkg":
            (tree / path).with_name("__init__.py").touch()
    if (tree / "my_pkg").is_dir():
        (tree / "my_pkg" / "__init__.py").touch()
    found = layout(tree, "my-pkg")
    assert (list(found.sources), list(found.tests)) == (sources, tests)
    assert all(found.is_test(path) and not found.is_source(path) for path in tests)


def test_a_module_that_is_only_called_like_tests_is_source(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "my_pkg/__init__.py", "my_pkg/ab_test.py")
    with pytest.raises(PackageRejectedError, match=r"no module test_\*\.py"):
        layout(tree, "my-pkg")


def test_a_package_without_tests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRejectedError, match="carries no tests"):
        layout(_tree(tmp_path, "my_pkg/__init__.py"), "my-pkg")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("CHANGES", True),
        ("CHANGELOG.md", True),
        ("docs/changelog.rst", True),
        ("HISTORY.txt", True),
        ("changelog.d/12.bugfix", True),
        ("docs/release-notes-3.4.md", True),
        ("README.md", False),
        ("setup.py", False),
        ("docs/newsreader.md", False),
    ],
)
def test_what_is_a_changelog(path: str, expected: bool) -> None:
    assert is_changelog(path) is expected
