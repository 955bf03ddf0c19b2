"""The data pool: completions a second through it, and to Parquet and back."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from m2gym.forge.bench.row import Row, row
from m2gym.forge.parquet import export_parquet, import_parquet
from m2gym.forge.pool import DataPool
from m2gym.forge.records import PoolCompletion, PoolTrajectory


def _write(path: str, count: int, batch: int, tokens: int) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 200_000, tokens).astype(np.int32)
    logprobs = -rng.random(tokens).astype(np.float32)
    prompt = ids[:512]
    with DataPool(path) as pool:
        for start in range(0, count, batch):
            pool.put(
                PoolTrajectory(
                    f"k{n}",
                    (PoolCompletion(prompt, ids, logprobs, np.full(tokens, n, np.int32)),),
                    1.0,
                )
                for n in range(start, min(start + batch, count))
            )


def bench_pool(count: int = 6000, tokens: int = 4096) -> list[Row]:
    """Completions with 4k response tokens (ids, logprobs, versions) through the pool: one process
    writes while another claims and commits."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "pool.db")
        context = multiprocessing.get_context("spawn")
        with DataPool(path) as pool:
            lease = pool.attach("bench", lease=600)
            writer = context.Process(target=_write, args=(path, count, 64, tokens))
            writer.start()
            seen, total, started = 0, 0.0, math.inf
            while seen < count:
                claim = lease.claim(64)
                if claim is None:
                    time.sleep(0.002)
                    continue
                started = min(started, time.perf_counter())
                for trajectory in claim.trajectories:
                    total += float(trajectory.completions[0].logprobs_T[-1])
                seen += len(claim.groups)
                lease.commit(claim.id)
            seconds = time.perf_counter() - started
            writer.join()
            pool.check()
            size = Path(path).stat().st_size / seen
    case = f"{count:,} completions of 512 + {tokens:,} tokens, one writer, one trainer"
    note = f"{size / 1024:.0f} KiB each on disk, integrity checked"
    return [row("pool", case, seen / seconds, None, "completions/s in and out", note, less=False)]


def bench_parquet(count: int = 2000, tokens: int = 4096) -> list[Row]:
    """A pool to Parquet and back, against pyarrow's own way through Python objects."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path, file = str(Path(folder) / "pool.db"), Path(folder) / "pool.parquet"
        _write(path, count, 64, tokens)
        with DataPool(path) as pool:
            started = time.perf_counter()
            export_parquet(pool, file)
            out = time.perf_counter() - started
        with DataPool(str(Path(folder) / "again.db")) as pool:
            started = time.perf_counter()
            import_parquet(pool, file)
            back = time.perf_counter() - started
        started = time.perf_counter()
        objects = pq.read_table(file).to_pylist()
        read = time.perf_counter() - started
        started = time.perf_counter()
        pq.write_table(pa.Table.from_pylist(objects), Path(folder) / "objects.parquet")
        written = time.perf_counter() - started
        size = file.stat().st_size / count / 1024
    case = f"{count:,} completions of 512 + {tokens:,} tokens"
    for name, ours, peer in (("export", out, written), ("import", back, read)):
        note = f"{size:.0f} KiB each; ours with the pool, pyarrow's Python objects alone"
        rows.append(
            row(f"parquet {name}", case, count / ours, count / peer, "completions/s", note,
                less=False)
        )  # fmt: skip
    return rows
