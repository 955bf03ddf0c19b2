"""Files taken out of a finished workspace: paths → bytes, opened by suffix.

>>> files = Artifacts({"out.json": b'{"a": 1}', "note.txt": b"hi"})
>>> files.open("out.json"), files.open("note.txt")
({'a': 1}, 'hi')
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from m2gym.core.errors import InputError

Opener = Callable[[bytes], Any]
_OPENERS: dict[str, Opener] = {}


def opener(*suffixes: str) -> Callable[[Opener], Opener]:
    """Register a typed opener for file suffixes such as ``".json"``; the last one wins."""

    def add(function: Opener) -> Opener:
        for suffix in suffixes:
            if not suffix.startswith("."):
                raise InputError(f"a suffix starts with a dot, got {suffix!r}")
            _OPENERS[suffix.lower()] = function
        return function

    return add


class Artifacts(Mapping[str, bytes]):
    """Paths relative to the work folder → contents, as they were when the agent stopped."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)

    def __getitem__(self, path: str) -> bytes:
        try:
            return self._files[path]
        except KeyError:
            raise KeyError(f"no artifact {path!r}; there are {sorted(self._files)[:12]}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def text(self, path: str) -> str:
        """UTF-8 text; undecodable bytes are kept as surrogates."""
        return self[path].decode("utf-8", "surrogateescape")

    def open(self, path: str) -> Any:
        """The parsed file, by its suffix (text when the suffix has no opener).

        Raises:
            InputError: the bytes are not what the suffix promises.
        """
        parse = _OPENERS.get(PurePosixPath(path).suffix.lower(), _text)
        try:
            return parse(self[path])
        except (ValueError, csv.Error) as error:
            raise InputError(f"artifact {path!r} does not parse: {error}") from error


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@opener(".json")
def _json(data: bytes) -> Any:
    return json.loads(data)


@opener(".jsonl")
def _json_lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines() if line.strip()]


@opener(".csv")
def _csv(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


@opener(".patch", ".diff")
def _patch(data: bytes) -> dict[str, list[str]]:
    """New path (or old, for a deletion) → the changed lines with their sign."""
    files: dict[str, list[str]] = {}
    old = current = ""
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        if line.startswith("--- "):
            old = line[4:].split("\t")[0].removeprefix("a/")
        elif line.startswith("+++ "):
            new = line[4:].split("\t")[0].removeprefix("b/")
            current = old if new == "/dev/null" else new
            files[current] = []
        elif current and line[:1] in "+-":
            files[current].append(line)
    return files


@opener(".xlsx", ".xlsm")
def _workbook(data: bytes) -> Any:
    """An openpyxl workbook (extra ``office``) with the values as last calculated."""
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise InputError("workbooks need openpyxl: pip install 'm2gym[office]'") from error
    return openpyxl.load_workbook(io.BytesIO(data), data_only=True)
