"""A content-addressed cache on disk, shared by processes, that notices when it was damaged.

Two kinds of entry: a *blob* is a file named by its SHA-256; a *folder* is named by a key that
states everything it was made from, with a manifest of its files. Both appear by one rename, under
a lock a process (or thread) waits for, so nobody ever sees half of one. Once filled, nothing here
needs a network.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from m2gym.core.errors import DownloadError, InfraError

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``; the library prints nothing by itself."""

MANIFEST = "files.json"
FILES = "files"


def silent(what: str, done: int, total: int) -> None:
    """The default progress hook: says nothing."""


def default_root() -> Path:
    """``$M2GYM_CACHE``, else ``$XDG_CACHE_HOME/m2gym``, else ``~/.cache/m2gym``."""
    if path := os.environ.get("M2GYM_CACHE"):
        return Path(path).expanduser().absolute()
    if path := os.environ.get("XDG_CACHE_HOME"):
        return Path(path).expanduser().absolute() / "m2gym"
    return Path.home() / ".cache" / "m2gym"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def key_of(*parts: object) -> str:
    """A key from JSON-able parts: the SHA-256 of their canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Cache:
    """Blobs and folders below ``root`` (made when first needed)."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root).absolute() if root is not None else default_root()
        self._verified: set[str] = set()

    def blob_path(self, sha256: str) -> Path:
        """Where a blob lies, or would."""
        return self.root / "blobs" / sha256[:2] / sha256

    def blob(self, sha256: str) -> Path | None:
        """The blob, its bytes checked (once in this object's life); ``None`` when absent.

        Raises:
            DownloadError: its bytes have another hash; the message says what to delete.
        """
        path = self.blob_path(sha256)
        if not path.exists():
            return None
        if sha256 not in self._verified:
            found = file_sha256(path)
            if found != sha256:
                raise DownloadError(
                    f"the cached file {path} is damaged: expected sha256 {sha256}, "
                    f"got {found}; delete it (rm {path}) and run again to fetch it anew"
                )
            self._verified.add(sha256)
        return path

    def add_blob(self, source: Path, sha256: str, what: str) -> Path:
        """Move ``source`` in, after checking that its hash is ``sha256``.

        Raises:
            DownloadError: it is not; ``what`` names the file in the message.
        """
        found = file_sha256(source)
        if found != sha256:
            raise DownloadError(
                f"{what}: expected sha256 {sha256}, got {found} ({source.stat().st_size} bytes); "
                "nothing was kept. Check the package index that pip is configured with, "
                "then run again"
            )
        target = self.blob_path(sha256)
        with _disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.chmod(0o444)
            source.replace(target)
        self._verified.add(sha256)
        return target

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the cache's own file system, removed afterwards."""
        parent = self.root / "tmp"
        with _disk_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold ``key`` alone, among all threads and processes that use this cache."""
        path = self.root / "locks" / f"{key}.lock"
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("w")
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def folder(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of ``key``; ``build`` fills it (an empty folder is passed) if it is absent.

        Its manifest is checked once in this object's life.

        Raises:
            InfraError: files of it were changed since; the message says what to delete.
        """
        entry = self.root / kind / key[:32]
        if not (entry / MANIFEST).exists():
            with self.lock(f"{kind}-{key[:32]}"):
                if not (entry / MANIFEST).exists():
                    self._build(entry, build)
        elif str(entry) not in self._verified:
            self._check(entry)
        self._verified.add(str(entry))
        return entry / FILES

    def _build(self, entry: Path, build: Callable[[Path], None]) -> None:
        with self.scratch() as scratch, _disk_errors(entry):
            (scratch / FILES).mkdir()
            build(scratch / FILES)
            scratch.chmod(0o755)
            (scratch / FILES).chmod(0o755)
            files = {
                path: [digest, *_stamp(scratch / FILES / path)]
                for path, digest in tree_digest(scratch / FILES).items()
            }
            manifest = json.dumps(files, indent=0, sort_keys=True)
            (scratch / MANIFEST).write_text(manifest, encoding="utf-8")
            entry.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(entry, ignore_errors=True)
            scratch.rename(entry)

    def _check(self, entry: Path) -> None:
        """Hash what is not, by size, mode and time, exactly as it was built."""
        root = entry / FILES
        expected = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        present = set(_walk(root))
        damaged = present ^ expected.keys()
        for path in present & expected.keys():
            digest, *stamp = expected[path]
            if _stamp(root / path) != stamp and _digest(root / path) != digest:
                damaged.add(path)
        if damaged:
            raise InfraError(
                f"the cached folder {entry} is damaged: {len(damaged)} files differ from its "
                f"manifest, first {min(damaged)!r}; delete it (rm -r {entry}) and run again"
            )


def tree_digest(root: Path) -> dict[str, str]:
    """Path relative to ``root`` → mode and SHA-256 of a file, or the target of a link."""
    return {path: _digest(root / path) for path in _walk(root)}


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all files and of links to files."""
    base = len(str(root)) + 1
    for folder, _, files in os.walk(root):
        for name in files:
            yield f"{folder}/{name}"[base:]


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    executable = "x" if path.stat().st_mode & stat.S_IXUSR else "-"
    return executable + hashlib.sha256(path.read_bytes()).hexdigest()


def _stamp(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_size, status.st_mode, status.st_mtime_ns]


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfraError(
            f"the cache cannot be written at {path}: {error}; free some space or point "
            "M2GYM_CACHE at another folder"
        ) from error
