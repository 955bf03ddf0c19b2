"""Trees: what merging saves in time, memory and work, and what building them costs."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from m2gym.forge.bench.decoder import VOCABULARY, Decoder, gradient, train_step
from m2gym.forge.bench.row import Row, row
from m2gym.forge.bench.samples import agent_runs, group, merged_row, unmerged_row
from m2gym.forge.pack import Budget, pack
from m2gym.forge.shapes import recorded, shape
from m2gym.forge.targets import targets_of
from m2gym.forge.tree import Sample, build_tree


def _measure(merged: bool, samples: list[Sample], repeats: int) -> tuple[float, float, float, Any]:
    """In a process of its own, one thread: median CPU seconds (others may use the machine), growth
    of the peak in MB, work, gradients."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Decoder()
    train_step(model, *merged_row(build_tree(samples[:1])))
    gradient(model)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = merged_row(build_tree(samples)) if merged else unmerged_row(samples)
    times = []
    grads = torch.empty(0)
    for _ in range(repeats):
        started = time.process_time()
        train_step(model, *parts)
        grads = gradient(model)
        times.append(time.process_time() - started)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    work = model.work(parts[1], len(parts[2].target_P))
    return statistics.median(times), peak, work, grads.numpy()


def _recorded(agent: str) -> list[Sample]:
    return shape(agent).tokens(VOCABULARY)


def bench_recorded() -> list[Row]:
    """What merging saves at most on the trees recorded from released agents, by work of an
    M2-shaped layer (multiply-adds of its matmuls and attention), not by time."""
    rows = []
    token, pair = 3072 * 128 * 112 + 8 * 3 * 3072 * 1536 + 256 * 3072, 2 * 48 * 128
    for agent, found in recorded().items():
        tree = build_tree(found.tokens(200_000))
        merged = tree.tokens * token + tree.layout.pairs * pair
        alone = tree.unmerged_tokens * token + tree.unmerged_pairs * pair
        case = (
            f"4 runs of {agent}: {len(found.samples)} completions, {len(found.lengths_N)} nodes, "
            f"{tree.unmerged_tokens:,} tokens merged to {tree.tokens:,}"
        )
        rows.append(row("tree ideal", case, merged / 1e12, alone / 1e12, "10^12 multiply-adds",
                        "work, not time", less=True))  # fmt: skip
    return rows


def bench_tree(repeats: int = 3) -> list[Row]:
    """Forward and backward, merged against unmerged packed training, beside the ideal."""
    cases: list[tuple[str, Callable[[], list[Sample]]]] = [
        ("group 8 x (1,024 shared + 128 own)", lambda: group(1024, 128, 8)),
        ("group 16 x (512 shared + 32 own)", lambda: group(512, 32, 16)),
        ("4 generated agent runs of 8 turns, rewritten history, sub-agent", agent_runs),
        ("4 recorded runs of mini-swe-agent", partial(_recorded, "mini-swe-agent")),
    ]
    rows = []
    context = multiprocessing.get_context("spawn")
    for name, make in cases:
        results = []
        for merged in (True, False):
            with ProcessPoolExecutor(1, mp_context=context) as alone:
                results.append(alone.submit(_measure, merged, make(), repeats).result())
        (ours, our_mb, work, grad), (peer, peer_mb, all_work, reference) = results
        ideal = all_work / work
        error = float(np.linalg.norm(grad - reference) / np.linalg.norm(reference))
        note = (
            f"ideal {ideal:.2f}x by work, reached {peer / ours / ideal:.2f} of it; "
            f"gradients differ by {error:.1e} (float32)"
        )
        rows.append(row("tree step", name, ours, peer, "CPU s", note, less=True))
        rows.append(row("tree memory", name, our_mb, peer_mb, "MB", "growth of peak", less=True))
    return rows


def bench_build(repeats: int = 3) -> list[Row]:
    """Building and packing the tree of 1,000 sequences of 8k tokens."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 200_000, (125, 6000))
    own = rng.integers(0, 200_000, (1000, 2000))
    samples = [Sample.of(prompts[n % 125], own[n]) for n in range(1000)]
    times: dict[str, list[float]] = {"build": [], "build with targets": [], "pack": []}
    for _ in range(repeats):
        started = time.perf_counter()
        tree = build_tree(samples)
        times["build"].append(time.perf_counter() - started)
        targets_of(tree)
        times["build with targets"].append(time.perf_counter() - started)
        started = time.perf_counter()
        pack(samples, Budget(65_536))
        times["pack"].append(time.perf_counter() - started)
    case = "1,000 sequences of 8,000 tokens in 125 groups"
    return [
        row(f"tree {name}", case, statistics.median(values), None, "s", "", less=True)
        for name, values in times.items()
    ]
