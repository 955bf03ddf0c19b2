"""Source archives: unpacked without trust, and where their source and tests lie.

An archive is data from strangers: nothing of it runs here, no member may leave the folder it is
unpacked to, links are refused or replaced by copies, and its size is bounded (the bounds are the
project's choice).
"""

from __future__ import annotations

import re
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import IO

from m2gym.core.errors import InputError

MAX_FILES = 50_000
MAX_BYTES = 512 * 2**20
EPOCH = 1_577_836_800
"""Modification time of every unpacked file (2020-01-01 UTC), so that trees are reproducible."""

CONFIGURATION = ("pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml")
TEST_FOLDERS = ("tests", "test", "testing")
_NOT_SOURCE = {
    *TEST_FOLDERS,
    "docs",
    "doc",
    "examples",
    "example",
    "benchmarks",
    "scripts",
    "tools",
}
_CHANGELOG = re.compile(
    r"(changes?|changelog|history|news|release[-_ ]?notes|releases?|whats[-_ ]?new|upgrading)"
    r"([-_ .].*)?",
    re.IGNORECASE,
)
_TEST_MODULE = re.compile(r"tests?|(tests?_.+)|(.+_tests?)")
_HAS_TESTS = re.compile(rb"^\s*(async )?def test|TestCase|doctest", re.MULTILINE)
_CHANGELOG_FOLDERS = {"newsfragments", "changelog.d", "changes", "changelog", "news", "releases"}


class PackageRejectedError(InputError):
    """This archive cannot become a task; the message is the reason."""


def unpack(archive: Path, name: str, target: Path) -> None:
    """Unpack a source archive or a wheel into ``target``, an sdist's single top folder stripped.

    ``name`` is the file name (blobs have none). Files are 0644 or 0755 and dated `EPOCH`.

    Raises:
        PackageRejectedError: a member leaves the folder or is neither file nor folder, a link
            leads nowhere, or the archive is too big or no archive.
    """
    try:
        if name.endswith((".whl", ".zip")):
            _unpack_zip(archive, name, target)
        else:
            _unpack_tar(archive, name, target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, UnicodeError) as error:
        raise PackageRejectedError(f"{name} is not a readable archive: {error}") from error


def _unpack_zip(archive: Path, name: str, target: Path) -> None:
    sink = _Sink(name, target, strip=not name.endswith(".whl"))
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            if info.is_dir():
                continue
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise PackageRejectedError(f"{name}: {info.filename!r} is a link")
            with zipped.open(info) as stream:
                sink.put(info.filename, stream, bool((info.external_attr >> 16) & 0o100))


def _unpack_tar(archive: Path, name: str, target: Path) -> None:
    sink = _Sink(name, target, strip=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir() or member.type == tarfile.XGLTYPE:
                sink.inside(member.name)
                continue
            stream = tar.extractfile(_target_of_link(tar, member, sink))
            if stream is None:
                raise PackageRejectedError(f"{name}: {member.name!r} is neither file nor folder")
            sink.put(member.name, stream, bool(member.mode & 0o100))


def _target_of_link(tar: tarfile.TarFile, member: tarfile.TarInfo, sink: _Sink) -> tarfile.TarInfo:
    seen: set[str] = set()
    while member.issym() or member.islnk():
        if member.name in seen:
            raise PackageRejectedError(f"{sink.name}: the link {member.name!r} is a loop")
        seen.add(member.name)
        base = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
        path = sink.inside(str(base / member.linkname), f"the link {member.name!r} leads outside")
        try:
            member = tar.getmember(str(path))
        except KeyError:
            raise PackageRejectedError(
                f"{sink.name}: the link {member.name!r} leads to {str(path)!r}, which is absent"
            ) from None
        if member.isdir():
            raise PackageRejectedError(f"{sink.name}: a link leads to the folder {member.name!r}")
    if not member.isfile():
        raise PackageRejectedError(f"{sink.name}: {member.name!r} is neither file nor folder")
    return member


class _Sink:
    """Writes members below a folder, within the bounds."""

    def __init__(self, name: str, target: Path, *, strip: bool) -> None:
        self.name, self.target, self.strip = name, target, strip
        self.files = self.bytes = 0

    def inside(self, member: str, problem: str | None = None) -> PurePosixPath:
        parts: list[str] = []
        for part in PurePosixPath(member).parts:
            if part == ".." and parts:
                parts.pop()
            elif part == ".." or part.startswith("/") or "\0" in part:
                raise PackageRejectedError(
                    f"{self.name}: {problem or f'the member {member!r} lies outside the archive'}"
                )
            else:
                parts.append(part)
        return PurePosixPath(*parts)

    def put(self, member: str, stream: IO[bytes], executable: bool) -> None:
        path = self.inside(member)
        if self.strip:
            path = PurePosixPath(*path.parts[1:])
        if path == PurePosixPath():
            return
        self.files += 1
        target = self.target / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise PackageRejectedError(f"{self.name}: {member!r} is both a file and a folder")
        with target.open("wb") as out:
            while chunk := stream.read(2**20):
                self.bytes += len(chunk)
                if self.bytes > MAX_BYTES or self.files > MAX_FILES:
                    raise PackageRejectedError(
                        f"{self.name} holds more than {MAX_BYTES} bytes or {MAX_FILES} files"
                    )
                out.write(chunk)
        target.chmod(0o755 if executable else 0o644)


@dataclass(frozen=True)
class Layout:
    """Where things lie in an unpacked archive; every path is relative to it, with slashes."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    python_path: str

    def is_test(self, path: str) -> bool:
        """Whether a file belongs to the tests or their configuration."""
        return (
            any(path == test or path.startswith(test + "/") for test in self.tests)
            or path in CONFIGURATION
            or path.rsplit("/", 1)[-1] == "conftest.py"
        )

    def is_source(self, path: str) -> bool:
        """Whether a file belongs to the package and is no test."""
        inside = any(path == s or path.startswith(s + "/") for s in self.sources)
        return inside and not self.is_test(path)


def layout(root: Path, project: str) -> Layout:
    """Find the import packages (or modules) and the tests of an unpacked source archive.

    Raises:
        PackageRejectedError: no import package was found, or no tests.
    """
    base = root / "src" if (root / "src").is_dir() else root
    sources = _sources(root, base, project)
    if not sources:
        raise PackageRejectedError(f"{project}: no import package was found in the archive")
    tests = [t for t in TEST_FOLDERS if (root / t).is_dir()]
    tests += sorted(p.name for p in root.glob("test*.py"))
    for source in sources:
        tests += [f"{source}/{t}" for t in TEST_FOLDERS if (root / source / t).is_dir()]
    if not tests:
        tests = _modules(root, base, sources)
    if not tests:
        raise PackageRejectedError(
            f"{project}: the archive carries no tests: no folder {', '.join(TEST_FOLDERS)} at its "
            "top or in the package, and no module test_*.py, *_test.py or tests.py with tests in it"
        )
    return Layout(tuple(sources), tuple(tests), "src" if base != root else ".")


def _modules(root: Path, base: Path, sources: list[str]) -> list[str]:
    """Tests where no folder of tests lies at its usual place: modules beside the package or in it,
    and folders deeper in it."""
    inside = [
        p for source in sources if (root / source).is_dir() for p in (root / source).rglob("*")
    ]
    folders = [p for p in inside if p.is_dir() and p.name in TEST_FOLDERS and any(p.glob("*.py"))]
    modules = [
        p
        for p in (*root.glob("*.py"), *base.glob("*.py"), *inside)
        if p.suffix == ".py"
        and _TEST_MODULE.fullmatch(p.stem)
        and _HAS_TESTS.search(p.read_bytes())
        and not any(folder in p.parents for folder in folders)
    ]
    return sorted({p.relative_to(root).as_posix() for p in (*folders, *modules)})


def _sources(root: Path, base: Path, project: str) -> list[str]:
    normal = re.sub(r"[-_.]+", "_", project).lower()
    packages = {
        p.name: p
        for p in sorted(base.iterdir())
        if (p.is_dir() and (p / "__init__.py").exists() and p.name not in _NOT_SOURCE)
        or (p.suffix == ".py" and p.stem.lower() == normal)
    }
    named = [p for n, p in packages.items() if n.removesuffix(".py").lower() == normal]
    chosen = named or [p for p in packages.values() if not p.name.startswith((".", "_"))]
    return [p.relative_to(root).as_posix() for p in chosen]


def is_changelog(path: str) -> bool:
    """Whether a path (outside the package) tells what a release changed.

    >>> is_changelog("CHANGES.rst"), is_changelog("docs/changelog.md"), is_changelog("setup.py")
    (True, True, False)
    """
    pure = PurePosixPath(path)
    stem = pure.name.removesuffix(pure.suffix) if pure.suffix else pure.name
    textual = pure.suffix.lower() in {"", ".rst", ".md", ".txt", ".html"}
    folders = {part.lower() for part in pure.parts[:-1]}
    return (textual and _CHANGELOG.fullmatch(stem) is not None) or bool(
        folders & _CHANGELOG_FOLDERS
    )


def files_of(root: Path) -> Iterator[str]:
    """Relative paths of all files, sorted."""
    yield from sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def metadata(root: Path) -> tuple[str, str]:
    """Name and version from an unpacked archive's ``PKG-INFO``.

    Raises:
        PackageRejectedError: there is none, or it lacks them.
    """
    path = root / "PKG-INFO"
    if not path.exists():
        raise PackageRejectedError("the archive has no PKG-INFO")
    headers = HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
    if not headers["Name"] or not headers["Version"]:
        raise PackageRejectedError("PKG-INFO lacks Name or Version")
    return headers["Name"], headers["Version"]


def entry_points(root: Path) -> str:
    """The text of ``entry_points.txt`` that installing the unpacked archive would write."""
    for path in sorted(root.glob("**/*.egg-info/entry_points.txt")):
        return path.read_text(encoding="utf-8")
    if not (root / "pyproject.toml").exists():
        return ""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (tomllib.TOMLDecodeError, KeyError):
        return ""
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    sections = (
        "\n".join([f"[{group}]", *(f"{name} = {where}" for name, where in points.items()), ""])
        for group, points in groups.items()
        if points
    )
    return "\n".join(sections)
