"""One training step on trees recorded from released agents: merged against unmerged, on a GPU.

``python -m tests.forge.gpu_m2_recorded [AGENT …]`` prints one JSON row an agent (all that ship,
when none is named). Model, kernels and packing of the unmerged side are those of
`tests.forge.gpu_m2_step`; ids are random, the trees' shapes are the recorded ones.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from m2gym.forge.shapes import recorded, shape
from m2gym.forge.targets import targets_of
from m2gym.forge.tree import Sample, Tree, build_tree
from tests.forge.gpu_m2_step import BUDGET, VOCABULARY, Row, differences, model, timed, work

NAMES = ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight")


def row_of(trees: list[Tree]) -> Row:
    """Trees one after the other in a row: one merged tree, or samples that share nothing."""
    ids, positions, rows, targets, times = [], [], [], [], []
    starts: list[int] = []
    parents: list[int] = []
    offset = 0
    for tree in trees:
        found = targets_of(tree)
        first = len(parents)
        ids.append(tree.ids_T)
        positions.append(tree.layout.position_T)
        rows.append(found.position_P + offset)
        targets.append(found.target_P)
        times.append(np.bincount(found.pair_M, minlength=len(found.target_P)))
        starts += [offset + int(start) for start in tree.layout.start_N]
        parents += [-1 if p < 0 else first + int(p) for p in tree.layout.parent_N]
        offset += tree.tokens
    whole = [torch.as_tensor(np.concatenate(part)) for part in (ids, positions, rows, targets)]
    return (*whole, torch.as_tensor(np.concatenate(times)).float(), ([*starts, offset], parents))  # type: ignore[return-value]


def packed(samples: list[Sample]) -> list[list[Tree]]:
    """Samples unmerged, several to a row of at most BUDGET tokens."""
    bins: list[list[Tree]] = [[]]
    for sample in samples:
        tree = build_tree([sample])
        if bins[-1] and sum(t.tokens for t in bins[-1]) + tree.tokens > BUDGET:
            bins.append([])
        bins[-1].append(tree)
    return bins


def measure(made: object, agent: str) -> dict[str, object]:
    samples = shape(agent).tokens(VOCABULARY)
    tree = build_tree(samples)
    merged = [row_of([tree])]
    alone = [row_of(trees) for trees in packed(samples)]
    timed(made, alone, 1)
    timed(made, merged, 1)
    ours, ours_gb = timed(made, merged, 5)
    grads = [made.get_parameter(name).grad.float() for name in NAMES]  # type: ignore[attr-defined]
    peer, peer_gb = timed(made, alone, 1)
    trained = sum(int(sample.trained_T.sum()) for sample in samples)
    ideal = work(tree.unmerged_tokens, tree.unmerged_pairs, trained) / work(
        tree.tokens, tree.layout.pairs, len(merged[0][2])
    )
    return {
        "device": torch.cuda.get_device_name(),
        "agent": agent,
        "samples": len(samples), "nodes": tree.layout.nodes,
        "tokens": tree.tokens, "unmerged_tokens": tree.unmerged_tokens, "rows": len(alone),
        "merged_s": ours, "unmerged_s": peer, "speed_up": peer / ours, "ideal": ideal,
        "of_ideal": peer / ours / ideal, "merged_gb": ours_gb, "unmerged_gb": peer_gb,
        "gradient_difference": differences(made, NAMES, grads),
    }  # fmt: skip


def main(agents: list[str]) -> None:
    torch.manual_seed(0)
    made = model()
    for agent in agents or recorded():
        print(json.dumps(measure(made, agent)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
