"""The lines of ``trajectories.jsonl``: one episode each, with a checksum over its own text.

A line is the trajectory's JSON object with one more key at its end, ``sha256``: the digest of the
object's text *without* that key. So a torn, merged or edited line is seen, and any JSON reader
still reads the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from m2gym.core.errors import InputError
from m2gym.core.trajectory import SCHEMA_VERSION, Trajectory
from m2gym.core.verdict import Status
from m2gym.rollout.migrate import RECORD, migrate

_SUFFIX_LENGTH = len(',"sha256":""}') + 64
_SUFFIX = re.compile(rb',"sha256":"([0-9a-f]{64})"}')
_PRESENT = f'{{"schema_version":{SCHEMA_VERSION},'.encode()


def encode(trajectory: Trajectory) -> bytes:
    """The line, with its line feed."""
    return sealed(trajectory)


def sealed(record: BaseModel) -> bytes:
    """A record's JSON with its checksum and line feed."""
    body = record.model_dump_json().encode("utf-8")
    digest = hashlib.sha256(body).hexdigest().encode()
    return body[:-1] + b',"sha256":"' + digest + b'"}\n'


def decode(line: bytes) -> Trajectory:
    """The trajectory of a line without its line feed.

    Raises:
        InputError: the checksum is absent or differs, or the record has another schema.
    """
    body = _body(line)
    try:
        if body.startswith(_PRESENT):
            return Trajectory.model_validate_json(body)
        return Trajectory.model_validate(migrate(json.loads(body), RECORD))
    except ValidationError as error:
        raise InputError(f"not a record of this version: {_first(error)}") from None


def _body(line: bytes) -> bytes:
    found = _SUFFIX.fullmatch(line[-_SUFFIX_LENGTH:])
    if found is None:
        raise InputError("no checksum at the end of the line")
    body = line[:-_SUFFIX_LENGTH] + b"}"
    if hashlib.sha256(body).hexdigest().encode() != found.group(1):
        raise InputError("the checksum differs from the line's text")
    return body


class Entry(BaseModel):
    """The part of a record that says what it is of; the rest is passed over."""

    class _Verdict(BaseModel):
        status: Status

    id: str
    task: str
    attempt: int
    verdict: _Verdict

    @property
    def key(self) -> tuple[str, int]:
        return self.task, self.attempt


class DamagedError(InputError):
    """A record in the middle of the file is not whole."""


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines whose checksum holds, without line feeds. A torn *last* one ends it in silence.

    Raises:
        DamagedError: a line before the last does not hold.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        problem = ""
        for number, line in enumerate(file, 1):
            if problem:
                raise DamagedError(
                    f"{path} is damaged: {problem}; cut that line out, then --resume"
                )
            if not line.endswith(b"\n"):
                return
            try:
                _body(line[:-1])
            except InputError as error:
                problem = f"line {number}: {error}"
                continue
            yield line[:-1]


def checked_lines(path: Path) -> Iterator[bytes]:
    """As `whole_lines`, each without its checksum."""
    for line in whole_lines(path):
        yield line[:-_SUFFIX_LENGTH] + b"}"


def index(path: Path) -> Iterator[tuple[Entry, int]]:
    """What each whole line is of, and where it ends in the file."""
    end = 0
    for line in whole_lines(path):
        end += len(line) + 1
        try:
            yield Entry.model_validate_json(line), end
        except ValidationError as error:
            raise DamagedError(f"{path}: not a record of this version: {_first(error)}") from None


def scan(path: Path) -> Iterator[Trajectory]:
    """Every record in order; see `whole_lines`."""
    for line in whole_lines(path):
        yield decode(line)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
