"""Losses and gradients of merged training equal those of unmerged training, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.forge.shapes import recorded
from m2gym.forge.targets import score, targets_of
from m2gym.forge.tree import Sample, build_tree
from tests.forge.models import gradients, merged_logits, plain_logits, tiny_model
from tests.forge.strategies import random_samples

MODELS: dict = {}


def model_of(kind):
    return MODELS.setdefault(kind, tiny_model(kind))


def clipped_loss(logprobs, entropy, old, advantage):
    """A clipped policy gradient with entropy and KL: non-linear in each sample's own ratio."""
    ratio = torch.exp(logprobs - old)
    policy = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    kl = torch.exp(old - logprobs) - (old - logprobs) - 1
    return (policy + 0.05 * kl - 0.01 * entropy).sum()


def unmerged(model, samples, advantages):
    total, logprobs = 0.0, []
    for sample, advantage in zip(samples, advantages, strict=True):
        at = np.flatnonzero(sample.trained_T)
        logp_T_V = torch.log_softmax(plain_logits(model, sample.ids_T), -1)
        logp = logp_T_V[at - 1, sample.ids_T[at]]
        entropy = -(logp_T_V.exp() * logp_T_V).sum(-1)[at - 1]
        old = torch.as_tensor(sample.old_logprobs)
        loss = clipped_loss(logp, entropy, old, advantage)
        loss.backward()
        total += loss.item()
        logprobs.append(logp.detach())
    return total, torch.cat(logprobs), gradients(model)


def merged(model, samples, advantages, backend):
    tree = build_tree(samples, vocabulary=61)
    targets = targets_of(tree)
    scores = score(merged_logits(model, tree, backend), targets)
    advantage_M = torch.as_tensor(advantages)[targets.sample_M]
    old_M = torch.as_tensor(targets.old_logprobs_M)
    loss = clipped_loss(scores.logprobs_M, scores.entropy_M, old_M, advantage_M)
    loss.backward()
    return loss.item(), scores.logprobs_M.detach(), gradients(model)


def assert_same(a, b, rtol=1e-9):
    assert a[0] == pytest.approx(b[0], rel=rtol)
    torch.testing.assert_close(a[1], b[1], rtol=rtol, atol=1e-11)
    for x, y in zip(a[2], b[2], strict=True):
        assert (x - y).norm() <= rtol * x.norm() + 1e-11


@pytest.mark.parametrize("kind", ["llama", "minimax_m2"])
@pytest.mark.parametrize("backend", ["dense", "rectangles"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8))
def test_random_trees(kind, backend, seed, count):
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, count)
    advantages = rng.standard_normal(count)
    model = model_of(kind)
    assert_same(unmerged(model, samples, advantages), merged(model, samples, advantages, backend))


@pytest.mark.parametrize("kind", ["llama", "minimax_m2"])
def test_same_tokens_with_different_old_logprobs_and_signs(kind):
    """Clipping must come before the sum: two samples of the same tokens that pull apart."""
    base = Sample.of([1, 2, 3], [4, 5], [-0.1, -5.0])
    other = Sample.of([1, 2, 3], [4, 5], [-6.0, -0.2])
    model = model_of(kind)
    samples, advantages = [base, other, base], np.array([1.5, -0.7, -2.0])
    assert_same(
        unmerged(model, samples, advantages), merged(model, samples, advantages, "rectangles")
    )


@pytest.mark.parametrize("kind", ["llama", "minimax_m2"])
@pytest.mark.parametrize("agent", recorded())
def test_trees_recorded_from_agents(kind, agent):
    """The shapes that real agents left, every fourth completion, shortened to be quick."""
    found = recorded()[agent]
    lengths = tuple(1 + n // 400 for n in found.lengths_N)
    shorter = []
    for nodes, length, generated in found.samples[::4]:
        whole = sum(lengths[n] for n in nodes)
        kept = max(2, whole * length // sum(found.lengths_N[n] for n in nodes))
        shorter.append((nodes, kept, min(1 + generated // 20, kept - 1)))
    samples = replace(found, lengths_N=lengths, samples=tuple(shorter)).tokens(61)
    advantages = np.random.default_rng(3).standard_normal(len(samples))
    model = model_of(kind)
    assert_same(
        unmerged(model, samples, advantages), merged(model, samples, advantages, "rectangles")
    )


def test_a_wrong_position_would_be_seen():
    """The test can fail: positions that restart at a branch give another loss."""
    model = model_of("llama")
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 61, 6)
    samples = [Sample.of(prompt, [n, n + 1], [-1.0, -1.0]) for n in (3, 7)]
    tree = build_tree(samples)
    right = merged_logits(model, tree)
    out = model(
        input_ids=torch.as_tensor(tree.ids_T)[None],
        position_ids=torch.arange(tree.tokens)[None],
        layout=tree.layout,
        use_cache=False,
    ).logits[0]
    assert (right - out).abs().max() > 1e-4


def test_bfloat16_merging_differs_no_more_than_two_unmerged_packings():
    """In bf16 the merged logprobs lie as near the float64 ones as two unmerged packings do."""
    import copy

    exact = model_of("llama")
    model = copy.deepcopy(exact).bfloat16()
    rng = np.random.default_rng(5)
    prompt = rng.integers(0, 61, 40)
    samples = [Sample.of(prompt, rng.integers(0, 61, 12)) for _ in range(8)]
    tree = build_tree(samples)
    targets = targets_of(tree)
    forest = [build_tree([s]) for s in samples]

    with torch.no_grad():
        truth = score(merged_logits(exact, tree), targets).logprobs_M
        ours = score(merged_logits(model, tree, "rectangles"), targets).logprobs_M
        alone = torch.cat(
            [score(merged_logits(model, t), targets_of(t)).logprobs_M for t in forest]
        )
        padded = []
        for sample in samples:
            longer = np.concatenate([sample.ids_T, np.zeros(17, np.int64)])
            logits = plain_logits(model, longer).float()
            at = np.flatnonzero(sample.trained_T)
            padded.append(torch.log_softmax(logits, -1)[at - 1, sample.ids_T[at]])
    errors = [float((x.double() - truth).abs().mean()) for x in (ours, alone, torch.cat(padded))]
    assert errors[0] <= 1.25 * max(errors[1:])
