"""Trajectories as Parquet: one row a completion, one for an episode without any."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Completion, Trajectory

EPISODE: dict[str, str] = {
    "trajectory": "string",
    "env": "string",
    "task": "string",
    "attempt": "int32",
    "agent": "string",
    "model": "string",
    "seed": "int64",
    "status": "string",
    "stop": "string",
    "isolation": "string",
    "reward": "float64",
}
COMPLETION: dict[str, str] = {
    "completion": "int32",
    "parent": "int32",
    "prompt_ids": "ids",
    "response_ids": "ids",
    "logprobs": "floats",
    "weight_versions": "ids",
    "messages": "string",
    "message": "string",
    "tools": "string",
    "sampling": "string",
    "drift": "int32",
    "finish_reason": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "cost_usd": "float64",
}
COLUMNS = {**EPISODE, **COMPLETION}
"""Column → type. ``messages``, ``message``, ``tools`` and ``sampling`` are JSON text; prompts are
the part after the parent's, as in the record."""


def write_parquet(trajectories: Iterable[Trajectory], path: str | Path, *, rows: int = 1024) -> int:
    """Write all completions; returns how many rows. Memory is bounded by ``rows``.

    Raises:
        InputError: pyarrow is not installed.
    """
    try:
        pa: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise InputError("Parquet needs pyarrow: pip install 'm2gym[parquet]'") from error
    types = {"ids": pa.list_(pa.int32()), "floats": pa.list_(pa.float32())}
    fields = [(name, types.get(kind) or getattr(pa, kind)()) for name, kind in COLUMNS.items()]
    schema = pa.schema(fields)
    written = 0
    with parquet.ParquetWriter(str(path), schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for trajectory in trajectories:
            batch += rows_of(trajectory)
            if len(batch) >= rows:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                written += len(batch)
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    return written + len(batch)


def rows_of(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    """The rows of an episode, parents before children."""
    verdict = trajectory.verdict
    episode = {
        "trajectory": trajectory.id,
        "env": trajectory.env,
        "task": trajectory.task,
        "attempt": trajectory.attempt,
        "agent": trajectory.agent,
        "model": trajectory.model,
        "seed": trajectory.seed,
        "status": verdict.status,
        "stop": verdict.stop,
        "isolation": verdict.isolation,
        "reward": verdict.reward,
    }
    if not trajectory.completions:
        yield episode
    for index, completion in enumerate(trajectory.completions):
        yield {**episode, "completion": index, **_completion(completion)}


def _completion(completion: Completion) -> dict[str, Any]:
    as_they_are = ("parent", "drift", "finish_reason")
    lists = ("prompt_ids", "response_ids", "logprobs", "weight_versions")
    texts = ("messages", "message", "tools", "sampling")
    return {
        **{key: getattr(completion, key) for key in as_they_are},
        **{key: list(getattr(completion, key)) for key in lists},
        **{key: json.dumps(getattr(completion, key), ensure_ascii=False) for key in texts},
        **completion.usage.model_dump(),
    }
