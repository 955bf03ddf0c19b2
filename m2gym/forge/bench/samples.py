"""Samples whose trees are measured: groups, generated agent runs, and the same left unmerged."""

from __future__ import annotations

import numpy as np

from m2gym.forge.bench.decoder import VOCABULARY
from m2gym.forge.layout import Ints, Layout
from m2gym.forge.targets import Targets, targets_of
from m2gym.forge.tree import Sample, Tree, build_tree


def unmerged_row(samples: list[Sample]) -> tuple[Ints, Layout, Targets]:
    """The samples end to end in one row, each its own root: packed, not padded, training."""
    lengths = [len(sample.ids_T) for sample in samples]
    layout = Layout.from_parents([-1] * len(samples), lengths)
    trees = [build_tree([sample]) for sample in samples]
    parts = [targets_of(tree) for tree in trees]
    offsets = np.cumsum([0, *lengths[:-1]])
    pair_offsets = np.cumsum([0, *[len(part.target_P) for part in parts[:-1]]])
    targets = Targets(
        np.concatenate([p.position_P + at for p, at in zip(parts, offsets, strict=True)]),
        np.concatenate([p.target_P for p in parts]),
        np.concatenate([p.pair_M + at for p, at in zip(parts, pair_offsets, strict=True)]),
        np.repeat(np.arange(len(parts)), [len(p.pair_M) for p in parts]),
        np.concatenate([p.old_logprobs_M for p in parts]),
    )
    return np.concatenate([sample.ids_T for sample in samples]), layout, targets


def group(prompt: int, own: int, members: int, seed: int = 0) -> list[Sample]:
    """A group: one prompt, ``members`` responses."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, VOCABULARY, prompt)
    return [
        Sample.of(shared, rng.integers(0, VOCABULARY, own), np.full(own, -6.9))
        for _ in range(members)
    ]


def agent_runs(members: int = 4, turns: int = 8, seed: int = 0) -> list[Sample]:
    """A generated group of agent runs: each turn a sample that extends the last; one rewrites its
    history half-way (reasoning dropped), one calls a sub-agent with a prompt of its own."""
    rng = np.random.default_rng(seed)

    def text(n: int) -> Ints:
        return rng.integers(0, VOCABULARY, n)

    samples = []
    prompt = text(400)
    for member in range(members):
        context = prompt
        for turn in range(turns):
            response = text(int(rng.integers(20, 80)))
            samples.append(Sample.of(context, response, np.full(len(response), -6.9)))
            context = np.concatenate([context, response, text(int(rng.integers(40, 160)))])
            if member == 1 and turn == turns // 2:
                kept = len(prompt) + (len(context) - len(prompt)) // 3
                context = np.concatenate([context[:kept], context[kept + 40 :]])
            if member == 2 and turn == 2:
                inner = text(200)
                for _ in range(3):
                    answer = text(40)
                    samples.append(Sample.of(inner, answer, np.full(40, -6.9)))
                    inner = np.concatenate([inner, answer, text(60)])
    return samples


def merged_row(tree: Tree) -> tuple[Ints, Layout, Targets]:
    """The tree's one row, as `unmerged_row` gives it."""
    return tree.ids_T, tree.layout, targets_of(tree)
