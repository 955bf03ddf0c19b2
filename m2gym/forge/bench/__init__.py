"""Figures of the Forge on this machine's CPU: ours beside the plain form, in one run.

``run()`` returns rows of ``{"bench", "case", "ours", "peer", "unit", "ratio", "note"}``; ``ratio``
is how much better ours is than the peer (above 1 is better). Takes about two minutes on two cores.
GPU figures with fused kernels are those of ``m2gym.kernels``.
"""

from __future__ import annotations

from collections.abc import Callable

from m2gym.forge.bench.pool import bench_parquet, bench_pool
from m2gym.forge.bench.row import Row
from m2gym.forge.bench.tree import bench_build, bench_recorded, bench_tree
from m2gym.forge.bench.window import bench_window

BENCHES: dict[str, Callable[[], list[Row]]] = {
    "build": bench_build,
    "tree": bench_tree,
    "recorded": bench_recorded,
    "window": bench_window,
    "pool": bench_pool,
    "parquet": bench_parquet,
}


def run(only: list[str] | None = None) -> list[Row]:
    """All figures, or those of the named benches."""
    return [found for name in only or BENCHES for found in BENCHES[name]()]
