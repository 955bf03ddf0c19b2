"""Package indexes for the tests: one on disk that the test fills, and the user's real one."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from m2gym.core.errors import DownloadError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.registry.cache import Cache, file_sha256
from m2gym.tasksets.registry.fetch import RegistryFile, fetch
from m2gym.tasksets.registry.pinned import PYTEST, pinned
from m2gym.tasksets.swe_repo.shipped import recipes
from m2gym.workspaces import make_workspace
from m2gym.workspaces.bubblewrap import ability

QUICK = ["pathspec-0.12.1", "parse-1.20.2-8afbce"]
"""Tasks that the tests build and judge in every run; all others are the heavy tests'."""


def lacking(thing: str, reason: str) -> None:
    """Skip for want of ``thing``, or fail where ``M2GYM_REQUIRE`` demands it."""
    if thing in os.environ.get("M2GYM_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def real_cache() -> Cache:
    """The user's own cache, for real packages."""
    return Cache()


@pytest.fixture(scope="session")
def registry(real_cache: Cache) -> None:
    """Skips where the package registry cannot be reached and the cache does not have the files."""
    quick = [recipes()[name] for name in QUICK]
    wanted = [f for r in quick for f in (r.source, r.fixed) if f is not None]
    try:
        fetch(wanted, real_cache)
    except DownloadError as error:
        lacking("registry", f"needs the package registry: {error}")


@pytest.fixture(scope="session")
def make_box() -> Callable[[WorkspaceSpec], Workspace]:
    if not ability().works:
        lacking("bwrap", f"needs bubblewrap: {ability().reason}")
    return lambda spec: make_workspace(spec, "local")


def tar_of(files: Mapping[str, str | bytes]) -> bytes:
    """A tar.gz of texts; the names are taken as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Index:
    """A package index in a folder, served as pip's only index."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, project: str, version: str, files: Mapping[str, str | bytes]) -> RegistryFile:
        """Publish a source archive; PKG-INFO is added."""
        top = f"{project}-{version}"
        info = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        named = {f"{top}/{path}": text for path, text in {"PKG-INFO": info, **files}.items()}
        return self.publish(project, version, tar_of(named))

    def publish(self, project: str, version: str, data: bytes) -> RegistryFile:
        """Publish the bytes of a source archive as they are."""
        folder = self.root / project
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"{project}-{version}.tar.gz"
        archive.write_bytes(data)
        links = "".join(f'<a href="{p.name}">{p.name}</a>\n' for p in folder.glob("*.tar.gz"))
        (folder / "index.html").write_text(f"<html><body>{links}</body></html>")
        return RegistryFile(
            project=project, version=version, filename=archive.name, sha256=file_sha256(archive)
        )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    found = Index(tmp_path / "index")
    found.root.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", found.root.as_uri())
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return found


@pytest.fixture
def wheels(registry: None, real_cache: Cache, cache: Cache) -> Cache:
    """A fresh cache that has pytest's wheels."""
    files = [pinned()[name] for name in PYTEST]
    for path in fetch(files, real_cache).values():
        target = cache.blob_path(path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return cache
