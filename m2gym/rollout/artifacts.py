"""What an episode left, kept in the run folder: enough to grade it again and to show its diff.

``artifacts/ID.tar.gz`` holds ``files.tar`` (the files that differ from the task's own), the paths
that are gone as lines of ``deleted.txt``, and ``changes.diff``, a unified diff of the text files.
An episode that changed nothing has an empty file, one whose box was never graded has none.
"""

from __future__ import annotations

import contextlib
import difflib
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from m2gym.core.errors import InputError
from m2gym.core.task import PreparedTask
from m2gym.rewards.exported import Exported
from m2gym.rewards.grading import tree

FOLDER = "artifacts"
MOST_BYTES = 32 * 2**20
"""Of one episode's changed files; what is larger is not kept. The project's choice."""
DIFF_BYTES = 256 * 2**10
"""Files above it are said to differ without their lines; the project's choice."""
TOO_LARGE = "# more than"
SKIPPED = (".git/", "__pycache__/", ".pytest_cache/")
"""Left out of the diff that people look at; kept for grading."""


@dataclass
class Delta:
    """The difference between a task's files and what an episode left."""

    files: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    diff: str = ""
    tar: bytes = b""
    """``files`` with their modes and the links, to be unpacked into a box."""


class ArtifactStore:
    """The artifacts of a run."""

    def __init__(self, path: Path) -> None:
        self.folder = path / FOLDER

    def keep(self, id: str, prepared: PreparedTask, exported: Exported) -> None:
        """Keep an episode's; called in a thread. Too large ones are only told of in the diff."""
        self.put(id, pack(compare(prepared, exported)))

    def kept(self, id: str) -> bool:
        """Whether an episode's artifacts are here and whole enough to grade."""
        file = self.folder / f"{id}.tar.gz"
        return file.exists() and not self._too_large(file)

    def put(self, id: str, packed: bytes) -> None:
        """Write a packed difference."""
        self.folder.mkdir(exist_ok=True)
        part = self.folder / f"{id}.part"
        try:
            part.write_bytes(packed)
            part.replace(self.folder / f"{id}.tar.gz")
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def load(self, id: str) -> Delta | None:
        """An episode's, or ``None`` where it changed nothing or nothing was kept.

        Raises:
            InputError: the file is damaged.
        """
        file = self.folder / f"{id}.tar.gz"
        if not file.exists() or not file.stat().st_size:
            return None
        delta = Delta()
        try:
            whole = io.BytesIO(gzip.decompress(file.read_bytes()))
            with tarfile.open(fileobj=whole, mode="r:") as source:
                for member in source:
                    data = source.extractfile(member) if member.isreg() else None
                    content = data.read() if data else b""
                    if member.name == "deleted.txt":
                        delta.deleted = content.decode("utf-8", "surrogateescape").splitlines()
                    elif member.name == "changes.diff":
                        delta.diff = content.decode("utf-8", "replace")
                    elif member.name == "files.tar":
                        delta.tar = content
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            raise InputError(f"{file} is damaged: {error}") from error
        if not delta.tar:
            return delta
        with tarfile.open(fileobj=io.BytesIO(delta.tar), mode="r:") as inner:
            for member in inner:
                handle = inner.extractfile(member) if member.isreg() else None
                if handle:
                    delta.files[member.name] = handle.read()
        return delta

    def _too_large(self, file: Path) -> bool:
        delta = self.load(file.name.removesuffix(".tar.gz"))
        return delta is not None and delta.diff.startswith(TOO_LARGE)

    def sweep(self, ids: Iterable[str]) -> None:
        """Remove what belongs to no record: a kill came between the two."""
        known = {f"{id}.tar.gz" for id in ids}
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                if file.name not in known:
                    file.unlink(missing_ok=True)


def compare(prepared: PreparedTask, exported: Exported) -> Delta:
    """What of the exported tree is not as in the task's own files."""
    root = prepared.workspace.root
    before = _pristine(prepared) if root is not None else {}
    delta = Delta()
    kept, size = io.BytesIO(), 0
    with (
        tarfile.open(fileobj=io.BytesIO(exported.tar), mode="r:") as source,
        tarfile.open(fileobj=kept, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            if member.isdir():
                continue
            data = exported.files.get(member.name, b"")
            old = before.get(member.name)
            if member.isreg() and old is not None and _same(old, data, member.mode):
                continue
            if member.issym() and root is not None and _same_link(root / member.name, member):
                continue
            size += len(data)
            if size > MOST_BYTES:
                delta.diff = f"{TOO_LARGE} {MOST_BYTES} bytes changed; they were not kept\n"
                delta.files, delta.deleted, delta.tar = {}, [], b""
                return delta
            target.addfile(member, io.BytesIO(data) if member.isreg() else None)
            if member.isreg():
                delta.files[member.name] = data
    there = exported.files.keys() | exported.links.keys()
    delta.deleted = sorted(path for path in before if path not in there)
    delta.tar = kept.getvalue() if size or delta.files else b""
    delta.diff = "".join(_diffs(delta, before))
    return delta


def _pristine(prepared: PreparedTask) -> dict[str, Path]:
    """The task's own files that the declared artifacts cover."""
    root = prepared.workspace.root
    parts = [part.rstrip("/") for part in prepared.task.artifacts]
    found = tree(root)
    git = root / ".git" if root is not None else None
    if git is not None and git.is_dir():
        found.update(
            {p.relative_to(git.parent).as_posix(): p for p in git.rglob("*") if p.is_file()}
        )
    return {
        path: file
        for path, file in found.items()
        if "__pycache__" not in path.split("/")
        and any(part in (".", path) or path.startswith(part + "/") for part in parts)
    }


def _same(old: Path, data: bytes, mode: int) -> bool:
    status = old.stat()
    executable = bool(status.st_mode & 0o100) == bool(mode & 0o100)
    return executable and status.st_size == len(data) and old.read_bytes() == data


def _same_link(old: Path, member: tarfile.TarInfo) -> bool:
    return old.is_symlink() and str(old.readlink()) == member.linkname


def _diffs(delta: Delta, before: dict[str, Path]) -> Iterable[str]:
    for path in sorted([*delta.files, *delta.deleted]):
        if path.startswith(SKIPPED) or any(f"/{part}" in path for part in SKIPPED):
            continue
        old = before[path].read_bytes() if path in before else b""
        new = delta.files.get(path, b"")
        if b"\0" in old + new or len(old) + len(new) > DIFF_BYTES:
            yield f"Binary or large file {path} differs: {len(old)} → {len(new)} bytes\n"
            continue
        names = (
            f"a/{path}" if path in before else "/dev/null",
            f"b/{path}" if path in delta.files else "/dev/null",
        )
        was, now = (t.decode("utf-8", "replace").splitlines(keepends=True) for t in (old, new))
        for line in difflib.unified_diff(was, now, *names):
            yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


class KeptArtifacts:
    """Holds one episode's in memory, to be sent where the run folder is."""

    def __init__(self) -> None:
        self.packed: bytes | None = None
        """``None`` until there are any."""

    def keep(self, id: str, prepared: PreparedTask, exported: Exported) -> None:
        """As `ArtifactStore.keep`."""
        self.packed = pack(compare(prepared, exported))


def pack(delta: Delta) -> bytes:
    """The file's bytes; none where nothing differs."""
    if not (delta.files or delta.deleted or delta.tar or delta.diff):
        return b""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=3) as packed,
        tarfile.open(fileobj=packed, mode="w") as target,
    ):
        for name, data in (
            ("changes.diff", delta.diff.encode("utf-8", "replace")),
            ("deleted.txt", "\n".join(delta.deleted).encode("utf-8", "surrogateescape")),
            ("files.tar", delta.tar),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
