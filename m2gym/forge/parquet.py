"""Export and import of a pool as Parquet, one row a completion; needs pyarrow."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from m2gym.core.errors import InputError
from m2gym.forge.pool import DataPool
from m2gym.forge.records import PoolCompletion, PoolTrajectory

COLUMNS = (
    "key", "group", "task", "status", "isolation", "reward", "turn", "process_reward",
    "prompt_ids", "response_ids", "logprobs", "weight_versions",
)  # fmt: skip

ARRAYS = ("prompt_ids", "response_ids", "logprobs", "weight_versions")


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise InputError("Parquet needs pyarrow: pip install 'm2gym[parquet]'") from error


def export_parquet(pool: DataPool, path: str | Path, *, rows: int = 4096) -> int:
    """Write every episode, masked and consumed ones too; returns the number of completions.

    An episode without completions is not written. Memory is bounded by ``rows``.
    """
    pa, pq = _pyarrow()
    ids, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    kinds = (pa.string(),) * 5 + (pa.float64(), pa.int32(), pa.float64(), ids, ids, floats, ids)
    schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
    total = 0
    # A dictionary of token ids or logprobs only costs time.
    names = [name for name in COLUMNS if name not in ARRAYS]
    with pq.ParquetWriter(str(path), schema, use_dictionary=names) as writer:
        batch: list[tuple[Any, ...]] = []
        for row in _rows(pool):
            batch.append(row)
            total += 1
            if len(batch) == rows:
                writer.write_table(_table(pa, schema, batch))
                batch = []
        writer.write_table(_table(pa, schema, batch))
    return total


def _rows(pool: DataPool) -> Iterator[tuple[Any, ...]]:
    for t in pool.trajectories():
        for turn, c in enumerate(t.completions):
            yield (
                t.key, t.group, t.task, t.status, t.isolation, t.reward, turn, c.process_reward,
                c.prompt_ids, c.response_ids, c.logprobs_T, c.versions_T,
            )  # fmt: skip


def _table(pa: ModuleType, schema: Any, batch: list[tuple[Any, ...]]) -> Any:
    """Arrays go over whole: a Python object a token would cost fifty times the time."""
    columns = list(zip(*batch, strict=True)) if batch else [() for _ in COLUMNS]
    made = []
    for values, field in zip(columns, schema, strict=True):
        if field.name in ARRAYS:
            kind = field.type.value_type
            offsets = np.cumsum([0, *(len(v) for v in values)], dtype=np.int64)
            flat = np.concatenate(values) if values else np.empty(0, np.float32)
            made.append(pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), pa.array(flat).cast(kind)
            ))  # fmt: skip
        else:
            made.append(pa.array(values, field.type))
    return pa.Table.from_arrays(made, schema=schema)


def import_parquet(pool: DataPool, path: str | Path, *, episodes: int = 512) -> int:
    """Put every episode of a file written by `export_parquet`; returns how many were new.

    Raises:
        InputError: the file lacks a column.
    """
    _, pq = _pyarrow()
    file = pq.ParquetFile(str(path))
    missing = set(COLUMNS) - set(file.schema_arrow.names)
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}")
    new, batch = 0, []
    for trajectory in _episodes(file):
        batch.append(trajectory)
        if len(batch) == episodes:
            new, batch = new + pool.put(batch), []
    return new + pool.put(batch)


def _episodes(file: Any) -> Iterator[PoolTrajectory]:
    rows: list[dict[str, Any]] = []
    for batch in file.iter_batches(batch_size=1024):
        for row in _unpacked(batch):
            if rows and rows[0]["key"] != row["key"]:
                yield _trajectory(rows)
                rows = []
            rows.append(row)
    if rows:
        yield _trajectory(rows)


def _unpacked(batch: Any) -> Iterator[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for name in COLUMNS:
        column = batch.column(name)
        if name in ARRAYS:
            if column.null_count or column.values.null_count:
                raise InputError(f"column {name} has empty entries; write the file anew")
            bounds, flat = column.offsets.to_numpy(), column.values.to_numpy()
            pairs = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
            # Copies, so that an episode does not keep its whole batch in memory.
            columns[name] = [flat[a:b].copy() for a, b in pairs]
        else:
            columns[name] = column.to_pylist()
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _trajectory(rows: list[dict[str, Any]]) -> PoolTrajectory:
    first = rows[0]
    completions = tuple(
        PoolCompletion(
            row["prompt_ids"], row["response_ids"], row["logprobs"], row["weight_versions"],
            row["process_reward"],
        )
        for row in sorted(rows, key=lambda row: int(row["turn"]))
    )  # fmt: skip
    return PoolTrajectory(
        first["key"], completions, first["reward"], first["status"], first["isolation"],
        first["group"], first["task"],
    )  # fmt: skip
