"""Rows in SWE-bench's fields, read from a file or given as objects, and checked one by one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from m2gym.core.errors import InputError
from m2gym.core.task import Frozen

Rows = str | Path | Iterable[Mapping[str, Any]]


class SweBenchRow(Frozen):
    """One instance. Fields that are not SWE-bench's are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    repo: str = Field(pattern=r"^[^/\s]+/[^/\s]+$", description="owner/name")
    instance_id: str = Field(min_length=1)
    base_commit: str = Field(min_length=1)
    patch: str = Field(min_length=1, description="the reference change, a git diff")
    test_patch: str = Field(description="the change of the tests, a git diff")
    problem_statement: str = Field(min_length=1)
    hints_text: str = ""
    created_at: str = ""
    version: str = ""
    FAIL_TO_PASS: tuple[str, ...] = Field(min_length=1)
    PASS_TO_PASS: tuple[str, ...]
    environment_setup_commit: str = ""

    @field_validator("FAIL_TO_PASS", "PASS_TO_PASS", mode="before")
    @classmethod
    def _list_of_ids(cls, value: Any) -> Any:
        """A list, or the JSON text of one."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError(
                    f"expected a list of test ids or its JSON text, got {value!r:.80}"
                ) from None
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ValueError(f"expected a list of test ids, got {value!r:.80}")
        return tuple(value)

    @field_validator(
        "hints_text", "created_at", "version", "environment_setup_commit", mode="before"
    )
    @classmethod
    def _absent_is_empty(cls, value: Any) -> Any:
        return "" if value is None else str(value)


def read_rows(rows: Rows) -> list[SweBenchRow]:
    """Rows of a ``.json``, ``.jsonl`` or ``.parquet`` file, or of a sequence of mappings.

    A row that is there twice counts once.

    Raises:
        InputError: the file is absent or of no such kind, a field is missing or wrong (the message
            names the row and the field), or two different rows have one ``instance_id``.
    """
    where, found = _open(rows) if isinstance(rows, str | Path) else ("rows", list(rows))
    if not found:
        raise InputError(f"{where}: there is no row")
    read: dict[str, SweBenchRow] = {}
    for number, raw in enumerate(found):
        row = _row(raw, f"{where}: row {number}")
        if read.setdefault(row.instance_id, row) != row:
            raise InputError(
                f"{where}: row {number}: instance_id {row.instance_id!r} stands for another row too"
            )
    return list(read.values())


def _row(raw: object, where: str) -> SweBenchRow:
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: expected an object with SWE-bench's fields, got {raw!r:.80}")
    try:
        return SweBenchRow.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        named = raw.get("instance_id")
        of = f" ({named})" if isinstance(named, str) else ""
        raise InputError(f"{where}{of}: {field}: {first['msg']}") from error


def _open(path: str | Path) -> tuple[str, Sequence[object]]:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a file with SWE-bench rows, {str(path)!r} is none")
    readers = {".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    if path.suffix not in readers:
        raise InputError(f"{path}: rows come as {', '.join(readers)}, got {path.suffix!r}")
    try:
        return str(path), readers[path.suffix](path)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not {path.suffix[1:]}: {error}") from error


def _json(path: Path) -> Sequence[object]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, list):
        raise InputError(f"{path}: expected a list of rows, got {type(data).__name__}")
    return data


def _jsonl(path: Path) -> Sequence[object]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _parquet(path: Path) -> Sequence[object]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise InputError("Parquet needs pyarrow: pip install 'm2gym[parquet]'") from error
    try:
        found: list[object] = parquet.read_table(path).to_pylist()
    except arrow.ArrowException as error:
        raise InputError(f"{path} is not Parquet: {error}") from error
    return found
