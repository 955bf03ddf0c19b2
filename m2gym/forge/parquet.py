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
    with pq.ParquetWriter(str(path), schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in _rows(pool):
            batch.append(row)
            total += 1
            if len(batch) == rows:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return total


def _rows(pool: DataPool) -> Iterator[dict[str, Any]]:
    for t in pool.trajectories():
        for turn, c in enumerate(t.completions):
            values = (
                t.key, t.group, t.task, t.status, t.isolation, t.reward, turn, c.process_reward,
                c.prompt_ids, c.response_ids, c.logprobs_T, c.versions_T,
            )  # fmt: skip
            yield dict(zip(COLUMNS, values, strict=True))


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
        for row in batch.to_pylist():
            if rows and rows[0]["key"] != row["key"]:
                yield _trajectory(rows)
                rows = []
            rows.append(row)
    if rows:
        yield _trajectory(rows)


def _trajectory(rows: list[dict[str, Any]]) -> PoolTrajectory:
    first = rows[0]
    completions = tuple(
        PoolCompletion(
            np.array(row["prompt_ids"], np.int32),
            np.array(row["response_ids"], np.int32),
            np.array(row["logprobs"], np.float32),
            np.array(row["weight_versions"], np.int32),
            row["process_reward"],
        )
        for row in sorted(rows, key=lambda row: int(row["turn"]))
    )
    return PoolTrajectory(
        first["key"], completions, first["reward"], first["status"], first["isolation"],
        first["group"], first["task"],
    )  # fmt: skip
