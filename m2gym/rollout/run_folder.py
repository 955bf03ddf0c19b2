"""A run folder: ``run.json`` once, ``trajectories.jsonl`` append-only, one writer at a time.

A record is written by one `os.write` and synced before the episode counts as done. What a kill can
leave is a torn last line; opening the folder to resume cuts it aside into ``torn.jsonl``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from m2gym.core.errors import InfraError, InputError
from m2gym.core.trajectory import Trajectory
from m2gym.rollout.artifacts import ArtifactStore
from m2gym.rollout.migrate import INFO as INFO_STEPS
from m2gym.rollout.migrate import migrate
from m2gym.rollout.records import decode, encode, index, whole_lines
from m2gym.rollout.run_info import RunInfo, differences

INFO, RECORDS, LOCK, TORN = "run.json", "trajectories.jsonl", "lock", "torn.jsonl"

Key = tuple[str, int]
"""Task id and attempt."""

RETRIED = frozenset({"infra_error", "cancelled"})
"""Statuses that a resumed run tries again; a later record of the same key replaces them."""


def read_info(path: Path) -> RunInfo:
    """``run.json`` of a run folder, or `InputError`."""
    try:
        text = (path / INFO).read_text("utf-8")
    except OSError as error:
        hint = ""
        if (path / "metrics.jsonl").is_file():
            hint = "; it is a training run's: see report.html and metrics.jsonl there"
        raise InputError(f"{path} is not a run folder: {INFO}: {error.strerror}{hint}") from error
    try:
        data = json.loads(text)
        return RunInfo.model_validate(migrate(data, INFO_STEPS))
    except json.JSONDecodeError as error:
        raise InputError(f"{path / INFO} is no JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path / INFO}: {place}: {first['msg']}") from None


def read_records(path: Path) -> Iterator[Trajectory]:
    """The last record of each task and attempt, in the order they were written."""
    file = path / RECORDS
    last = {entry.key: number for number, (entry, _) in enumerate(index(file))}
    kept = set(last.values())
    for number, line in enumerate(whole_lines(file)):
        if number in kept:
            yield decode(line)


class RunWriter:
    """The one writer of a run folder; a context manager that holds its lock.

    Raises:
        InputError: the folder holds a run and ``resume`` was not asked for; or it holds a run of
            another configuration; or another process is writing to it.
    """

    def __init__(self, path: Path, info: RunInfo, *, resume: bool = False) -> None:
        self.path, self.info = path, info
        path.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        try:
            self.done = self._open(resume)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(path / RECORDS, flags, 0o644)
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, trajectory: Trajectory) -> None:
        """Write and sync one record, whole or not at all.

        Raises:
            InfraError: the disk is full or fails; the file is as it was before.
        """
        self.append_lines([encode(trajectory)])

    def append_lines(self, lines: Sequence[bytes]) -> None:
        """Write and sync encoded records, all of them or none; see `append`."""
        data, before = b"".join(lines), os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            if written == len(data):
                os.fdatasync(self._file)
                return
            problem = f"only {written} of {len(data)} bytes fitted"
        except OSError as error:
            problem = error.strerror or str(error)
        os.ftruncate(self._file, before)
        raise InfraError(f"cannot write to {self.path / RECORDS}: {problem}; free space, --resume")

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _take_lock(self) -> int:
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise InputError(
                f"process {owner} is writing to {self.path}; wait for it or choose another folder"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _open(self, resume: bool) -> set[Key]:
        if not (self.path / INFO).exists():
            write_whole(self.path / INFO, self.info.model_dump_json(indent=2) + "\n")
            return set()
        if not resume:
            raise InputError(
                f"{self.path} already holds a run; resume it (--resume) or choose another folder"
            )
        old = read_info(self.path)
        changes = differences(old, self.info)
        if changes:
            raise InputError(
                f"{self.path} cannot be resumed with another configuration: {'; '.join(changes)}"
            )
        self.info = old
        statuses, ids, whole = {}, [], 0
        for entry, whole in index(self.path / RECORDS):  # noqa: B007
            statuses[entry.key] = entry.verdict.status
            ids.append(entry.id)
        self._cut_after(whole)
        ArtifactStore(self.path).sweep(ids)
        if json.loads((self.path / INFO).read_text("utf-8")).get("schema_version", 1) < (
            old.schema_version
        ):
            write_whole(self.path / INFO, old.model_dump_json(indent=2) + "\n")
        return {key for key, status in statuses.items() if status not in RETRIED}

    def _cut_after(self, whole: int) -> None:
        """Move what follows the last whole record aside."""
        file = self.path / RECORDS
        if not file.exists():
            return
        with file.open("r+b") as records:
            records.seek(whole)
            torn = records.read()
            if torn:
                with (self.path / TORN).open("ab") as aside:
                    aside.write(torn.rstrip(b"\n") + b"\n")
                records.truncate(whole)
                os.fsync(records.fileno())


def is_locked(lock: Path) -> bool:
    """Whether a writer holds the lock file now."""
    try:
        held = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(held)
    return False


def write_whole(path: Path, text: str, *, sync: bool = True) -> None:
    """All of the text or, after any kill, nothing of it."""
    write_parts(path, [text], sync=sync)


def write_parts(path: Path, parts: Iterable[str], *, sync: bool = True) -> None:
    """As `write_whole`, of a text that comes piece by piece."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(parts)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    part.replace(path)
