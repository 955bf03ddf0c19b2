"""What a release's tests need beside pytest, found in its own metadata and pinned, nothing built.

The names come from the release: what it requires, and what its extras, dependency groups and
requirement files list *and* its tests import. pip's resolver then says which files they are; it may
look at wheels only, so that no code of a package runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from m2gym.core.errors import DownloadError
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.fetch import RegistryFile, fetch, pin, pip_python
from m2gym.tasksets.registry.imports import imported
from m2gym.tasksets.registry.pinned import PYTEST
from m2gym.tasksets.registry.sdist import Layout, PackageRejectedError, files_of, layout, unpack

RESOLVE_SECONDS = 120
"""Bound of pip's resolver; the project's choice."""

IMPORT_NAMES = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "markdown": "markdown",
    "pkg_resources": "setuptools",
    "pytest_asyncio": "pytest-asyncio",
    "ruamel": "ruamel-yaml",
    "xprocess": "pytest-xprocess",
    "yaml": "pyyaml",
}
"""Top-level module → project, where the two names differ."""

_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"""\s*(and\s+)?\(?\s*extra\s*==\s*['"][^'"]*['"]\s*\)?\s*""")
_PLUGINS = {
    "pytest-asyncio": re.compile(r"asyncio_mode|mark\.asyncio"),
    "pytest-mock": re.compile(r"\bmocker\b"),
    "pytest-subtests": re.compile(r"\bsubtests\b"),
    "pytest-benchmark": re.compile(r"\bbenchmark\("),
}


def normal(name: str) -> str:
    """A project's name in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(root: Path, where: Layout, project: str) -> list[str]:
    """Requirements (PEP 508) of a release's own code and of what its tests import."""
    required, optional = _declared(root)
    modules = set(imported(root, [p for p in files_of(root) if p.endswith(".py")], where))
    wanted = {normal(IMPORT_NAMES.get(m, m)) for m in modules}
    text = _test_text(root, where)
    wanted |= {name for name, sign in _PLUGINS.items() if sign.search(text)}
    known = {**optional, **required}
    wanted |= required.keys()
    wanted -= {normal(project), *map(normal, PYTEST)}
    usual = {*IMPORT_NAMES.values(), *_PLUGINS, "hypothesis", "freezegun", "simplejson", "six"}
    return sorted(known.get(name, name) for name in wanted if name in known or name in usual)


def needs_of(release: RegistryFile, cache: Cache) -> list[str]:
    """`needed`, of a pinned archive.

    Raises:
        DownloadError, PackageRejectedError: the archive is not to be had, or no good.
    """
    archive = fetch([release], cache)[release.filename]
    with cache.scratch() as folder:
        unpack(archive, release.filename, folder)
        return needed(folder, layout(folder, release.project), release.project)


def resolve(
    requirements: Iterable[str],
    cache: Cache,
    *,
    portable: bool = False,
    before: str | None = None,
) -> tuple[RegistryFile, ...]:
    """The files that satisfy the requirements, what they require in turn included.

    With ``portable`` a project that has only wheels for one platform is pinned by its source
    archive, of which the pure Python part is used.

    Raises:
        PackageRejectedError: pip finds no such set; the message holds what it says.
        DownloadError: a source archive is not to be had.
    """
    listed = sorted(requirements)
    if not listed:
        return ()
    files = []
    for item in _report(listed, cache, before):
        name, version = normal(item["metadata"]["name"]), item["metadata"]["version"]
        filename = unquote(urlsplit(item["download_info"]["url"]).path.rpartition("/")[2])
        if name in map(normal, PYTEST):
            continue
        if portable and not filename.endswith("-none-any.whl"):
            try:
                files.append(pin(name, version, cache=cache))
            except DownloadError as error:
                raise PackageRejectedError(
                    f"{name} {version} has neither a pure wheel nor a source archive: {error}"
                ) from error
            continue
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        files.append(RegistryFile(project=name, version=version, filename=filename, sha256=sha256))
    return tuple(files)


def _report(requirements: list[str], cache: Cache, before: str | None) -> list[dict[str, Any]]:
    arguments = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    arguments += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    if before is not None:
        arguments += ["--uploaded-prior-to", before]
    with cache.scratch() as folder:
        report = folder / "report.json"
        command = [pip_python(), *arguments, "--report", str(report), *requirements]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=RESOLVE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise PackageRejectedError(
                f"pip did not resolve {requirements} in {RESOLVE_SECONDS} s"
            ) from None
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise PackageRejectedError(
                f"what the tests need cannot be resolved from wheels ({', '.join(requirements)}): "
                f"{' '.join(said)[-400:] or done.stderr[-400:]}"
            )
        found: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["install"]
    return found


def _declared(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Requirements of the package itself, and those of extras, groups and requirement files."""
    required: dict[str, str] = {}
    optional: dict[str, str] = {}
    for line in _metadata_lines(root):
        name = _name(line)
        if "extra" in line.partition(";")[2]:
            optional.setdefault(name, _without_extra(line))
        else:
            required[name] = line
    for line in _listed(root):
        if name := _name(line):
            optional.setdefault(name, line)
    return required, optional


def _without_extra(line: str) -> str:
    """A requirement without the condition that an extra was asked for.

    >>> _without_extra("a>=1; extra == 'test' and python_version > '3'")
    "a>=1; python_version > '3'"
    """
    requirement, _, marker = line.partition(";")
    rest = re.sub(r"^(and|or)\s+", "", _EXTRA.sub("", marker).strip())
    return f"{requirement.strip()}; {rest}" if rest else requirement.strip()


def _name(line: str) -> str:
    found = _NAME.match(line)
    return normal(found[1]) if found else ""


def _metadata_lines(root: Path) -> Iterator[str]:
    path = root / "PKG-INFO"
    if path.exists():
        headers = HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
        yield from headers.get_all("Requires-Dist") or []
    for path in sorted(root.glob("**/*.egg-info/requires.txt")):
        section = ""
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line.strip():
                extra, _, marker = section.partition(":")
                parts = [marker, "extra == 'x'" if extra else ""]
                conditions = " and ".join(filter(None, parts))
                yield f"{line.strip()} ; {conditions}" if conditions else line.strip()


def _listed(root: Path) -> Iterator[str]:
    """Requirement lines of dependency groups and of requirement files near the tests."""
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
        groups = tomllib.loads(text).get("dependency-groups", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        groups = {}
    for group in groups.values() if isinstance(groups, dict) else ():
        yield from (line for line in group if isinstance(line, str))
    patterns = ("*requirements*.txt", "*/*requirements*.txt", "requirements/*.[it][nx]*")
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            plain = line.partition("#")[0].strip()
            if plain and not plain.startswith("-") and "://" not in plain:
                yield plain.partition("==")[0]


def _test_text(root: Path, where: Layout) -> str:
    paths = [p for p in files_of(root) if where.is_test(p) and (root / p).stat().st_size < 10**6]
    return "\n".join((root / path).read_text("utf-8", "replace") for path in paths)
