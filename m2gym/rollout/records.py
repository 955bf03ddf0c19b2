"""The lines of ``trajectories.jsonl``: one episode each, with a checksum over its own text.

A line is the trajectory's JSON object with one more key at its end, ``sha256``: the digest of the
object's text *without* that key. So a torn, merged or edited line is seen, and any JSON reader
still reads the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Trajectory

_SUFFIX = re.compile(rb',"sha256":"([0-9a-f]{64})"}$')


def encode(trajectory: Trajectory) -> bytes:
    """The line, with its line feed."""
    body = trajectory.model_dump_json().encode("utf-8")
    digest = hashlib.sha256(body).hexdigest().encode()
    return body[:-1] + b',"sha256":"' + digest + b'"}\n'


def decode(line: bytes) -> Trajectory:
    """The trajectory of a line without its line feed.

    Raises:
        InputError: the checksum is absent or differs, or the record has another schema.
    """
    try:
        return Trajectory.model_validate_json(_body(line))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"not a record of this version: {place}: {first['msg']}") from None


def _body(line: bytes) -> bytes:
    found = _SUFFIX.search(line)
    if found is None:
        raise InputError("no checksum at the end of the line")
    body = line[: found.start()] + b"}"
    if hashlib.sha256(body).hexdigest().encode() != found.group(1):
        raise InputError("the checksum differs from the line's text")
    return body


@dataclass(frozen=True)
class Line:
    """A line that holds: where it starts, its length with line feed, and its record."""

    offset: int
    length: int
    trajectory: Trajectory


class Damaged(InputError):
    """A record in the middle of the file is not whole."""


def scan(path: Path) -> Iterator[Line]:
    """Every record in order. A torn *last* line ends the scan in silence: see `whole_bytes`.

    Raises:
        Damaged: a line before the last does not hold.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        offset, problem = 0, ""
        for number, line in enumerate(file, 1):
            if problem:
                raise Damaged(f"{path} is damaged: {problem}. Cut that line out, then --resume.")
            if not line.endswith(b"\n"):
                return
            try:
                trajectory = decode(line[:-1])
            except InputError as error:
                problem = f"line {number}: {error}"
                continue
            yield Line(offset, len(line), trajectory)
            offset += len(line)


def whole_bytes(path: Path) -> int:
    """The length of the file up to the end of its last whole record."""
    end = 0
    for line in scan(path):
        end = line.offset + line.length
    return end
