"""Layout, tree and targets: exact un-packing, ancestors only, every predicted token found."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Completion, Trajectory
from m2gym.core.verdict import Verdict
from m2gym.forge import attention, layout, tree
from m2gym.forge.attention import dense_mask
from m2gym.forge.layout import Layout
from m2gym.forge.targets import score, sum_coefficients, targets_of
from m2gym.forge.tree import Sample, build_tree, samples_of
from tests.forge.strategies import random_samples, sample_lists


@pytest.mark.parametrize("module", [layout, tree, attention])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


@settings(max_examples=200, deadline=None)
@given(sample_lists(vocabulary=3))
def test_unpacking_is_exact_and_nothing_is_laid_out_twice(samples):
    merged = build_tree(samples)
    prefixes = {tuple(s.ids_T[: n + 1]) for s in samples for n in range(len(s.ids_T))}
    assert merged.tokens == len(prefixes)
    mask = dense_mask(merged.layout).numpy()
    for index, sample in enumerate(samples):
        rows = merged.rows(index)
        assert (merged.ids_T[rows] == sample.ids_T).all()
        assert (merged.layout.position_T[rows] == np.arange(len(rows))).all()
        assert (merged.layout.previous_T[rows] == np.array([-1, *rows[:-1]])).all()
        for n, row in enumerate(rows):
            assert (np.flatnonzero(mask[row]) == np.sort(rows[: n + 1])).all()
    assert mask.sum() == merged.layout.pairs
    again = Layout.from_parents(merged.layout.parent_N, merged.layout.end_N - merged.layout.start_N)
    assert (again.reach_N == merged.layout.reach_N).all()


@settings(max_examples=50, deadline=None)
@given(sample_lists(vocabulary=3))
def test_row_does_not_depend_on_the_order_of_samples(samples):
    assert (build_tree(samples).ids_T == build_tree(samples[::-1]).ids_T).all()


def test_every_branching_makes_a_node_and_a_chain_makes_one():
    chain = [Sample.of([1, 2], [3]), Sample.of([1, 2, 3, 4], [5]), Sample.of([1, 2, 3, 4, 5], [6])]
    assert build_tree(chain).layout.nodes == 1
    group = [Sample.of([1, 2], [n, n]) for n in (3, 4, 5)]
    assert build_tree(group).layout.parent_N.tolist() == [-1, 0, 0, 0]
    assert build_tree([Sample.of([1], [2]), Sample.of([3], [4])]).layout.parent_N.tolist() == [
        -1,
        -1,
    ]


def test_branch_point_predicts_several_tokens():
    merged = build_tree([Sample.of([7, 8], [1]), Sample.of([7, 8], [2]), Sample.of([7, 8], [2])])
    targets = targets_of(merged)
    assert targets.position_P.tolist() == [1, 1]
    assert sorted(targets.target_P.tolist()) == [1, 2]
    assert targets.target_P[targets.pair_M].tolist() == [1, 2, 2]


@settings(max_examples=50, deadline=None)
@given(sample_lists())
def test_triples_give_the_same_gradient_as_the_flat_loss(samples):
    merged = build_tree(samples)
    targets = targets_of(merged)
    torch.manual_seed(0)
    logits = torch.randn(merged.tokens, 61, dtype=torch.float64, requires_grad=True)
    coefficient_M = torch.randn(len(targets.pair_M), dtype=torch.float64)
    (coefficient_M * score(logits, targets).logprobs_M).sum().backward()
    flat, logits.grad = logits.grad, None
    coefficient_P = sum_coefficients(coefficient_M, targets)
    logp = torch.log_softmax(logits, -1)[targets.position_P, targets.target_P]
    (coefficient_P * logp).sum().backward()
    torch.testing.assert_close(flat, logits.grad)
    parts = targets.split(coefficient_M)
    assert [len(p) for p in parts] == [int(s.trained_T.sum()) for s in samples]


def test_score_scales_by_the_temperature():
    merged = build_tree([Sample.of([0], [1])])
    logits = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    scores = score(logits, targets_of(merged), temperature=2.0)
    p = torch.softmax(torch.tensor([0.5, 1.5]), 0)
    assert scores.logprobs_M.item() == pytest.approx(float(p[1].log()))
    assert scores.entropy_M.item() == pytest.approx(float(-(p * p.log()).sum()))


def test_a_thousand_sequences_of_8k():
    rng = np.random.default_rng(0)
    prefix = rng.integers(0, 200_000, 6000)
    own = rng.integers(0, 200_000, (1000, 2000))
    own[:, 0] = rng.permutation(1000)
    merged = build_tree([Sample.of(prefix, row) for row in own])
    assert merged.tokens == 6000 + 1000 * 2000
    assert merged.layout.nodes == 1001


def test_samples_of_a_trajectory():
    def trajectory(*completions):
        return Trajectory(
            id="t", env="e", task="k", task_hash="", agent="a", completions=completions,
            verdict=Verdict(reward=1.0),
        )  # fmt: skip

    first = Completion(prompt_ids=(1, 2), response_ids=(3,), logprobs=(-0.1,))
    second = Completion(prompt_ids=(4,), response_ids=(5,), logprobs=(-0.2,), parent=0)
    samples = samples_of(trajectory(first, second))
    assert [s.ids_T.tolist() for s in samples] == [[1, 2, 3], [1, 2, 3, 4, 5]]
    assert build_tree(samples).tokens == 5
    with pytest.raises(InputError, match="cycle"):
        samples_of(trajectory(first, second.model_copy(update={"parent": 1})))
    with pytest.raises(InputError, match="expected 1 logprobs"):
        samples_of(trajectory(first.model_copy(update={"logprobs": (-0.1, -0.2)})))


def test_bad_input():
    with pytest.raises(InputError, match="at least one sample"):
        build_tree([])
    with pytest.raises(InputError, match=r"token id 9, outside \[0, 5\)"):
        build_tree([Sample.of([1], [9])], vocabulary=5)
    with pytest.raises(InputError, match="token id -1"):
        build_tree([Sample.of([1], [-1])])
    with pytest.raises(InputError, match="finite"):
        Sample.of([1], [2], [float("nan")])
    with pytest.raises(InputError, match="empty prompt"):
        Sample.of([], [2])
    with pytest.raises(InputError, match="no predecessor"):
        Sample(np.array([1]), np.array([True]))
    with pytest.raises(InputError, match="is trained"):
        targets_of(build_tree([Sample(np.array([1]), np.array([False]))]))
    with pytest.raises(InputError, match="cycle"):
        Layout.from_parents([1, 0], [1, 1])
    with pytest.raises(InputError, match="not depth-first"):
        Layout.from_parents([-1, 0, 0, 1], [1, 1, 1, 1])
    with pytest.raises(InputError, match="is empty"):
        Layout.from_parents([-1], [0])
    targets = targets_of(build_tree(random_samples(np.random.default_rng(0), 3)))
    with pytest.raises(InputError, match="one coefficient"):
        sum_coefficients(torch.ones(10_000), targets)
