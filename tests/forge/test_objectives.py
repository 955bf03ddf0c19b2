"""Each objective against an independent formula in float64, written with loops."""

from __future__ import annotations

import math

import pytest
import torch

from m2gym.core.errors import InputError
from m2gym.forge.objectives import (
    CISPO_EPSILON_HIGH,
    Cispo,
    Gspo,
    PpoClip,
    TokenBatch,
    coefficients,
    dapo,
    importance_weight,
    kl_low_variance,
    staleness_weight,
)


def batch(seed=0, lengths=(3, 1, 5, 2), spread=1.0, **kw):
    g = torch.Generator().manual_seed(seed)
    m = sum(lengths)
    old = -torch.rand(m, generator=g, dtype=torch.float64) * 3
    new = old + spread * torch.randn(m, generator=g, dtype=torch.float64)
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    a = torch.randn(len(lengths), generator=g, dtype=torch.float64)[sample]
    return TokenBatch(new.requires_grad_(), old, a, sample, **kw)


def rows(b):
    keep = b.kept_M.tolist()
    columns = [b.logprobs_M.tolist(), b.old_logprobs_M.tolist(), b.advantage_M.tolist()]
    by_sample: dict[int, list] = {}
    for index, sample in enumerate(b.sample_M.tolist()):
        if keep[index]:
            by_sample.setdefault(sample, []).append((index, *(c[index] for c in columns)))
    return by_sample


MASK = torch.tensor([1, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1]).bool()


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("seed", range(5))
class TestFormulas:
    def check(self, objective, b, expected_loss, expected_grad):
        loss = objective(b)
        (grad,) = torch.autograd.grad(loss.value, b.logprobs_M)
        assert loss.value.item() == pytest.approx(expected_loss, rel=1e-12)
        assert grad.tolist() == pytest.approx(expected_grad, rel=1e-12, abs=1e-15)

    def test_cispo(self, seed, mask):
        b = batch(seed, mask_M=mask)
        n = sum(len(tokens) for tokens in rows(b).values())
        loss, grad = 0.0, [0.0] * 11
        for tokens in rows(b).values():
            for index, new, old, a in tokens:
                weight = min(math.exp(new - old), 1 + 0.5)
                loss -= weight * a * new / n
                grad[index] = -weight * a / n
        self.check(Cispo(epsilon_high=0.5), b, loss, grad)

    @pytest.mark.parametrize("mean", ["samples", "tokens"])
    def test_ppo_clip(self, seed, mask, mean):
        b = batch(seed, mask_M=mask)
        samples = rows(b)
        n = sum(len(tokens) for tokens in samples.values())
        loss, grad = 0.0, [0.0] * 11
        for tokens in samples.values():
            each = 1 / len(tokens) / len(samples) if mean == "samples" else 1 / n
            for index, new, old, a in tokens:
                r = math.exp(new - old)
                clipped = min(max(r, 0.8), 1.28)
                loss -= min(r * a, clipped * a) * each
                grad[index] = -r * a * each if r * a <= clipped * a else 0.0
        self.check(PpoClip(0.2, 0.28, mean=mean), b, loss, grad)

    def test_gspo(self, seed, mask):
        b = batch(seed, mask_M=mask, spread=0.01)
        samples = rows(b)
        loss, grad = 0.0, [0.0] * 11
        for tokens in samples.values():
            s = math.exp(sum(new - old for _, new, old, _ in tokens) / len(tokens))
            a = tokens[0][3]
            clipped = min(max(s, 1 - 0.003), 1 + 0.004)
            loss -= min(s * a, clipped * a) / len(samples)
            for index, *_ in tokens:
                if s * a <= clipped * a:
                    grad[index] = -s * a / len(tokens) / len(samples)
        self.check(Gspo(0.003, 0.004), b, loss, grad)


@pytest.mark.parametrize("objective", [Cispo(), PpoClip(), dapo(), Gspo()])
def test_micro_batches_sum_to_the_batch(objective):
    whole = batch(3)
    total = objective(whole).value
    parts = torch.zeros((), dtype=torch.float64)
    for samples in ([0, 1], [2, 3]):
        at = torch.isin(whole.sample_M, torch.tensor(samples))
        sample = whole.sample_M[at]
        part = TokenBatch(
            whole.logprobs_M[at], whole.old_logprobs_M[at], whole.advantage_M[at],
            sample - sample.min(), total_tokens=11, total_samples=4,
        )  # fmt: skip
        parts = parts + objective(part).value
    assert parts.item() == pytest.approx(total.item(), rel=1e-12)


@pytest.mark.parametrize("objective", [Cispo(0.5), PpoClip(kl=0.1), dapo(), Gspo()])
def test_coefficients_carry_the_gradient(objective):
    b = batch(1, reference_M=batch(2).old_logprobs_M)
    (grad,) = torch.autograd.grad(objective(b).value, b.logprobs_M)
    loss, coefficient_M = coefficients(objective, b)
    torch.testing.assert_close(coefficient_M, grad)
    assert not loss.value.requires_grad


def test_kl_and_entropy_terms():
    reference, entropy = batch(7).old_logprobs_M, torch.rand(11, dtype=torch.float64)
    b = batch(0, reference_M=reference, entropy_M=entropy)
    plain = PpoClip(mean="tokens")(b).value.item()
    full = PpoClip(mean="tokens", kl=0.1, entropy=0.02)(b)
    d = reference - b.logprobs_M.detach()
    kl = (torch.exp(d) - d - 1).mean().item()
    assert full.value.item() == pytest.approx(plain + 0.1 * kl - 0.02 * entropy.mean().item())
    assert full.stats["kl_reference"] == pytest.approx(kl)
    assert (kl_low_variance(b.logprobs_M, reference) >= 0).all()


def test_on_policy_every_objective_is_the_policy_gradient():
    b = batch(0, spread=0.0)
    grads = [torch.autograd.grad(o(b).value, b.logprobs_M)[0] for o in (Cispo(), dapo())]
    torch.testing.assert_close(grads[0], -b.advantage_M / 11)
    torch.testing.assert_close(grads[1], grads[0])


def test_statistics_count_what_is_clipped():
    old = torch.zeros(4, dtype=torch.float64)
    new = torch.log(torch.tensor([9.0, 0.1, 1.0, 9.0], dtype=torch.float64))
    a = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    b = TokenBatch(new, old, a, torch.arange(4))
    assert Cispo().epsilon_high == CISPO_EPSILON_HIGH
    assert Cispo()(b).stats["clipped_high"] == 0.5
    assert Cispo()(b).stats["clipped_low"] == 0.0
    stats = PpoClip()(b).stats
    assert stats["clipped_high"] == 0.25
    assert stats["clipped_low"] == 0.25
    assert stats["ratio_max"] == pytest.approx(9.0)


def test_importance_and_staleness_weights():
    w = importance_weight(torch.tensor([0.0, 0.0]), torch.tensor([-5.0, 0.5]))
    assert w.tolist() == pytest.approx([2.0, math.exp(-0.5)])
    assert staleness_weight(torch.tensor([0, 2, 4]), 2.0).tolist() == [1.0, 0.5, 0.25]
    b = batch(0)
    half = TokenBatch(b.logprobs_M, b.old_logprobs_M, b.advantage_M, b.sample_M,
                      weight_M=torch.full((11,), 0.5, dtype=torch.float64))  # fmt: skip
    for objective in (Cispo(), PpoClip(), dapo()):
        assert objective(half).value.item() == pytest.approx(objective(b).value.item() / 2)


def test_masked_nan_does_not_spoil_the_gradient():
    b = batch(0, mask_M=MASK)
    new = b.logprobs_M.detach().clone()
    new[~MASK] = float("nan")
    new.requires_grad_()
    spoiled = TokenBatch(new, b.old_logprobs_M, b.advantage_M, b.sample_M, mask_M=MASK)
    for objective in (Cispo(), PpoClip(), dapo(), Gspo()):
        (grad,) = torch.autograd.grad(objective(spoiled).value, new)
        (want,) = torch.autograd.grad(objective(b).value, b.logprobs_M)
        torch.testing.assert_close(grad, want)


def test_bad_input():
    b = batch(0)
    with pytest.raises(InputError, match="one entry a trained token"):
        TokenBatch(b.logprobs_M, b.old_logprobs_M[:-1], b.advantage_M, b.sample_M)
    with pytest.raises(InputError, match="advantage_M holds NaN"):
        TokenBatch(b.logprobs_M, b.old_logprobs_M, b.advantage_M * math.nan, b.sample_M)
    none = TokenBatch(b.logprobs_M, b.old_logprobs_M, b.advantage_M, b.sample_M, MASK & False)
    for objective in (Cispo(), PpoClip(), dapo(), Gspo()):
        with pytest.raises(InputError, match="nothing to train on"):
            objective(none)
    with pytest.raises(InputError, match="needs reference_M"):
        PpoClip(kl=0.1)(b)
    with pytest.raises(InputError, match="needs entropy_M"):
        Cispo(entropy=0.1)(b)
    with pytest.raises(InputError, match="half_life"):
        staleness_weight(torch.ones(1), 0.0)
