"""One training step of a 1B-class decoder on a GPU: merged against unmerged, fused kernels.

``python -m tests.forge.gpu_step SHARED OWN MEMBERS [MEASURED]`` prints one JSON row: a group of
MEMBERS responses of OWN tokens after a prompt of SHARED; bfloat16, blocks recomputed in the
backward pass on both sides. Unmerged runs every sample in a row of its own (packed: no padding);
MEASURED of them are timed and scaled when running all would take long.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from m2gym.forge.bench.decoder import Decoder, gradient, train_step
from m2gym.forge.bench.samples import group, merged_row
from m2gym.forge.layout import Layout
from m2gym.forge.tree import build_tree
from m2gym.kernels.tree_attention import tree_attention


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> torch.Tensor:
    starts = [*layout.start_N.tolist(), layout.tokens]
    rows = [t.transpose(0, 1).contiguous() for t in (q, k, v)]
    return tree_attention(*rows, starts, layout.parent_N.tolist()).transpose(0, 1)


def timed(model: Decoder, trees: list, repeats: int) -> tuple[float, float]:
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        model.zero_grad()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for number, tree in enumerate(trees):
            train_step(model, *merged_row(tree), number)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2], torch.cuda.max_memory_allocated() / 2**30


def main(shared: int, own: int, members: int, measured: int) -> None:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Decoder(2048, 16, 16, 8, attend=fused, recompute=True).bfloat16()
    samples = group(shared, own, members)
    merged = build_tree(samples)
    alone = [build_tree([sample]) for sample in samples[:measured]]
    timed(model, [alone[0]], 1)
    timed(model, [merged], 1)
    ours, ours_gb = timed(model, [merged], 3)
    peer, peer_gb = timed(model, alone, 1)
    row = {
        "device": torch.cuda.get_device_name(),
        "case": f"{members} x ({shared} shared + {own} own)",
        "parameters": sum(p.numel() for p in model.parameters()),
        "merged_s": ours,
        "unmerged_s": peer * members / measured,
        "measured": measured,
        "speed_up": peer * members / measured / ours,
        "merged_gb": ours_gb,
        "unmerged_gb": peer_gb,
    }
    one = model.work(alone[0].layout, own)
    row["ideal"] = members * one / model.work(merged.layout, members * own)
    if measured == members:
        gradient(model)
        grads = []
        for trees in ([merged], alone):
            for number, tree in enumerate(trees):
                train_step(model, *merged_row(tree), number)
            grads.append(gradient(model).double())
        row["gradient_difference"] = float((grads[0] - grads[1]).norm() / grads[1].norm())
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    shared, own, members, *measured = map(int, sys.argv[1:])
    main(shared, own, members, measured[0] if measured else members)
