"""A tree in parts: every token in one part and computed once, gradients those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import InputError
from m2gym.forge.cut import backward_in_parts, cut, part_mask
from m2gym.forge.targets import targets_of
from m2gym.forge.tree import Sample, build_tree
from tests.forge.models import gradients, tiny_model
from tests.forge.strategies import random_samples, sample_lists
from tests.forge.test_merging import assert_same, clipped_loss, merged

MODELS: dict = {}


def forward_of(model, computed):
    from transformers import DynamicCache

    def forward(ids_Q, positions_Q, mask_Q_S, past):
        cache = DynamicCache()
        for layer, (k, v) in enumerate(past):
            cache.update(k, v, layer)
        computed.append(len(ids_Q))
        out = model(
            input_ids=ids_Q[None],
            position_ids=positions_Q[None],
            attention_mask=mask_Q_S[None, None],
            past_key_values=cache,
            use_cache=True,
        )
        q = len(ids_Q)
        return out.logits[0], [
            (lay.keys[..., -q:, :], lay.values[..., -q:, :]) for lay in cache.layers
        ]

    return forward


@settings(max_examples=100, deadline=None)
@given(sample_lists(most=12, vocabulary=3), st.integers(1, 30))
def test_parts_cover_the_tree_once_and_know_their_ancestors(samples, budget):
    tree = build_tree(samples)
    parts = cut(tree, budget)
    rows = np.concatenate([part.row_Q for part in parts])
    assert sorted(rows.tolist()) == list(range(tree.tokens))
    for at, part in enumerate(parts):
        assert part.index == at
        assert part.parent < at
        assert len(part.row_Q) <= budget
        assert (np.diff(part.row_Q) > 0).all()
        visible = np.concatenate([part.past_S, part.row_Q])
        mask = part_mask(tree, part).numpy()
        for row, seen in zip(part.row_Q, mask, strict=True):
            assert seen.sum() == tree.layout.position_T[row] + 1, "all ancestors are at hand"
            assert visible[seen].max() == row


@pytest.mark.parametrize("kind", ["llama", "minimax_m2"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(2, 25))
def test_gradients_equal_those_of_the_whole_tree(kind, seed, budget):
    model = MODELS.setdefault(kind, tiny_model(kind))
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, int(rng.integers(2, 9)))
    advantages = rng.standard_normal(len(samples))
    tree = build_tree(samples)
    targets = targets_of(tree)
    flat: dict[int, torch.Tensor] = {}

    def loss(tokens_m, scores):
        for m, value in zip(tokens_m.tolist(), scores.logprobs_M.detach(), strict=True):
            flat[m] = value
        advantage = torch.as_tensor(advantages)[targets.sample_M[tokens_m]]
        old = torch.as_tensor(targets.old_logprobs_M[tokens_m])
        return clipped_loss(scores.logprobs_M, scores.entropy_M, old, advantage)

    computed: list[int] = []
    total = backward_in_parts(tree, targets, cut(tree, budget), forward_of(model, computed), loss)
    grads = gradients(model)
    assert sum(computed) == tree.tokens, "no prefix is computed twice"
    logprobs = torch.stack([flat[m] for m in range(len(targets.pair_M))])
    assert_same(merged(model, samples, advantages, "dense"), (total, logprobs, grads))


def test_bad_input():
    tree = build_tree([Sample.of([1, 2], [3])])
    with pytest.raises(InputError, match="at least one token"):
        cut(tree, 0)
    other = build_tree([Sample.of([1, 2, 3, 4], [3])])
    with pytest.raises(InputError, match="do not cover"):
        backward_in_parts(other, targets_of(other), cut(tree, 9), lambda *a: a, lambda *a: a)
