"""Log-probabilities, entropy and policy losses against float64 autograd."""

from __future__ import annotations

import pytest
import torch

from m2gym.kernels import logits, reference
from m2gym.kernels.logprobs import Cispo, Ppo, policy_loss, token_logprobs
from m2gym.kernels.support import KernelRefusal
from m2gym.kernels.tuning import Tiles

BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def draw(
    tokens: int, width: int, vocabulary: int, dtype: torch.dtype, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = torch.randn(tokens, width, device=device).to(dtype)
    weight = (torch.randn(vocabulary, width, device=device) * 0.3).to(dtype)
    targets = torch.randint(0, vocabulary, (tokens,), device=device)
    return hidden, weight, targets


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach().double(), want.detach()
    assert not got.isnan().any()
    return float((got - want).norm() / want.norm().clamp(min=1e-30))


def leaf(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return tensor.detach().to(dtype or tensor.dtype).clone().requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs(dtype: torch.dtype, temperature: float, device: str) -> None:
    hidden, weight, targets = draw(11, 16, 53, dtype, device)
    targets[4] = -100
    h, w = leaf(hidden), leaf(weight)
    logp, entropy = token_logprobs(h, w, targets, temperature=temperature, chunk=4)
    th, tw = leaf(hidden, torch.double), leaf(weight, torch.double)
    want, want_entropy = reference.token_logprobs(th, tw, targets, temperature=temperature)
    # The head is fp32 from 16-bit operands: exact to fp32 whatever the operands' type.
    assert relative(logp, want) < 2e-5
    assert relative(entropy, want_entropy) < 2e-5
    a, b = torch.randn(11, device=device), torch.randn(11, device=device)
    (a * logp + b * entropy).sum().backward()
    (a.double() * want + b.double() * want_entropy).sum().backward()
    for got, right in ((h.grad, th.grad), (w.grad, tw.grad)):
        assert got is not None
        assert right is not None
        assert relative(got, right) < BOUNDS[dtype]


@pytest.mark.parametrize("objective", [Cispo(high=0.5), Ppo(0.2, 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policy_loss(objective: Cispo | Ppo, dtype: torch.dtype, device: str) -> None:
    hidden, weight, targets = draw(13, 16, 70, dtype, device)
    targets[::5] = -100
    advantages = torch.randn(13, device=device)
    scales = torch.rand(13, device=device)
    base, _ = reference.token_logprobs(hidden.double(), weight.double(), targets)
    old = (base + torch.randn(13, device=device) * 0.6).float()
    h, w = leaf(hidden), leaf(weight)
    got = policy_loss(
        h, w, targets, advantages, old, scales, objective, entropy_coefficient=0.02, chunk=5
    )
    (3 * got.loss).backward()

    th, tw = leaf(hidden, torch.double), leaf(weight, torch.double)
    logp, entropy = reference.token_logprobs(th, tw, targets)
    ratio = (logp - old.double()).exp()
    adv = advantages.double()
    if isinstance(objective, Cispo):
        each = -ratio.detach().clamp(max=1 + objective.high) * adv * logp
        clipped = ratio > 1 + objective.high
    else:
        inside = ratio.clamp(1 - objective.low, 1 + objective.high)
        each = -torch.minimum(ratio * adv, inside * adv)
        clipped = inside != ratio
    assert clipped.any()
    assert not clipped.all()
    live = targets != -100
    want = ((each - 0.02 * entropy) * scales.double())[live].sum()
    (3 * want).backward()
    assert relative(got.logprobs_T, logp) < 2e-5
    assert relative(got.entropy_T, entropy) < 2e-5
    torch.testing.assert_close(got.loss.double(), want, rtol=1e-4, atol=1e-5)
    for mine, right in ((h.grad, th.grad), (w.grad, tw.grad)):
        assert mine is not None
        assert right is not None
        assert relative(mine, right) < BOUNDS[dtype]


def test_both_ways_give_one_gradient(device: str) -> None:
    hidden, weight, targets = draw(9, 16, 40, torch.float32, device)
    advantages = torch.randn(9, device=device)
    first, second = leaf(hidden), leaf(hidden)
    logp, _ = token_logprobs(second, weight, targets)
    ones = torch.ones(9, device=device)
    on_policy = policy_loss(first, weight, targets, advantages, logp.detach(), ones, Cispo())
    on_policy.loss.backward()
    (-advantages * logp).sum().backward()
    assert first.grad is not None
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-5, atol=1e-6)


def check_last_token(vocabulary: int, dtype: torch.dtype, device: str, gradient: float) -> None:
    """Values, and the hidden states' gradient within ``gradient``, where a target is the last."""
    hidden, weight, targets = draw(3, 16, vocabulary, dtype, device)
    targets[0] = vocabulary - 1
    h, th = leaf(hidden), leaf(hidden, torch.double)
    logp, entropy = token_logprobs(h, weight, targets)
    want, want_entropy = reference.token_logprobs(th, weight.double(), targets)
    assert relative(logp, want) < 2e-5
    assert relative(entropy, want_entropy) < 2e-5
    logp.sum().backward()
    want.sum().backward()
    assert h.grad is not None
    assert th.grad is not None
    assert relative(h.grad, th.grad) < gradient


def test_several_blocks_of_the_vocabulary(device: str) -> None:
    check_last_token(4096 * 2 + 37, torch.bfloat16, device, 2e-2)


def test_a_vocabulary_of_262_144(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token's logit, and a gradient over all of them; under the interpreter in wide tiles,
    for its time goes by tiles."""
    if device == "cpu":
        monkeypatch.setattr(logits, "logits_tiles", lambda *_: Tiles(16, 8192, 16, 4, 1))
    check_last_token(262_144, torch.float32, device, 2e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_head_tied_to_the_embedding(fused: bool, device: str) -> None:
    """One matrix read as embedding and as head: its gradient is the sum of both."""
    _, table, ids = draw(8, 16, 40, torch.float32, device)
    own, truth = leaf(table), leaf(table, torch.double)
    ones = torch.ones(7, device=device)
    hidden = torch.nn.functional.embedding(ids, own)[:-1].tanh()
    want, _ = reference.token_logprobs(
        torch.nn.functional.embedding(ids, truth)[:-1].tanh(), truth, ids[1:]
    )
    if fused:
        old = want.detach().float()
        policy_loss(hidden, own, ids[1:], ones, old, ones, Cispo(), chunk=3).loss.backward()
        (-want.sum()).backward()
    else:
        token_logprobs(hidden, own, ids[1:], chunk=3)[0].sum().backward()
        want.sum().backward()
    assert own.grad is not None
    assert truth.grad is not None
    assert relative(own.grad, truth.grad) < 2e-5


def test_chunks_change_nothing(device: str) -> None:
    hidden, weight, targets = draw(10, 16, 33, torch.float32, device)
    whole, _ = token_logprobs(hidden, weight, targets)
    parts, _ = token_logprobs(hidden, weight, targets, chunk=3)
    torch.testing.assert_close(whole, parts)


def test_nan_stays_in_its_row(device: str) -> None:
    hidden, weight, targets = draw(6, 16, 33, torch.float32, device)
    hidden[2, 0] = float("nan")
    logp, _ = token_logprobs(hidden, weight, targets)
    assert logp.isnan().tolist() == [False, False, True, False, False, False]


def test_huge_logits(device: str) -> None:
    hidden, weight, targets = draw(4, 16, 33, torch.float32, device)
    logp, entropy = token_logprobs(hidden * 1e4, weight, targets)
    want, want_entropy = reference.token_logprobs(hidden.double() * 1e4, weight.double(), targets)
    assert relative(logp, want) < 1e-5
    assert float((entropy.double() - want_entropy).abs().max()) < 1e-2


def test_backward_once_and_refusals(device: str) -> None:
    hidden, weight, targets = draw(4, 16, 33, torch.float32, device)
    ones = torch.ones(4, device=device)
    loss = policy_loss(leaf(hidden), weight, targets, ones, -ones, ones, Ppo()).loss
    loss.backward(retain_graph=True)
    with pytest.raises(KernelRefusal, match="once already"):
        loss.backward()
    with pytest.raises(KernelRefusal, match="one value for each"):
        token_logprobs(hidden, weight, targets[:2])
    with pytest.raises(KernelRefusal, match="cast first"):
        token_logprobs(hidden, weight.bfloat16(), targets)
    with pytest.raises(KernelRefusal, match="temperature"):
        token_logprobs(hidden, weight, targets, temperature=0.0)
    for temperature in (float("nan"), float("inf"), -1.0):
        with pytest.raises(KernelRefusal, match="temperature"):
            token_logprobs(hidden, weight, targets, temperature=temperature)
    for wrong in (ones, ones.bool()):
        with pytest.raises(KernelRefusal, match="must be integers"):
            token_logprobs(hidden, weight, wrong)
    for chunk in (0, -4):
        with pytest.raises(KernelRefusal, match="at least one row"):
            token_logprobs(hidden, weight, targets, chunk=chunk)
    for wrong in (hidden[0], hidden[:, :8], hidden[None]):
        with pytest.raises(KernelRefusal, match=r"weight \(V, H\)"):
            token_logprobs(wrong, weight, targets)
    with pytest.raises(KernelRefusal, match=r"weight \(V, H\)"):
        token_logprobs(hidden, weight[:0], targets)
    with pytest.raises(KernelRefusal, match="one device"):
        token_logprobs(hidden, weight.to("meta"), targets)
    with pytest.raises(KernelRefusal, match="one value for each"):
        policy_loss(hidden, weight, targets, ones, ones[:3], ones, Ppo())
    with pytest.raises(KernelRefusal, match="a Cispo or a Ppo"):
        policy_loss(hidden, weight, targets, ones, ones, ones, "cispo")  # type: ignore[arg-type]
    with pytest.raises(KernelRefusal, match="weight_grad_dtype"):
        policy_loss(
            hidden, weight, targets, ones, ones, ones, Ppo(), weight_grad_dtype=torch.float16
        )


def test_a_target_outside_the_vocabulary_has_no_logprob(device: str) -> None:
    hidden, weight, targets = draw(5, 16, 33, torch.float32, device)
    targets[1], targets[3] = 33, -1
    logp, _ = token_logprobs(hidden, weight, targets)
    assert logp.isnan().tolist() == [False, True, False, True, False]


def test_no_row(device: str) -> None:
    hidden, weight, targets = draw(0, 16, 33, torch.float32, device)
    none = torch.zeros(0, device=device)
    h, w = leaf(hidden), leaf(weight)
    out = policy_loss(h, w, targets, none, none, none, Cispo())
    out.loss.backward()
    assert out.loss == 0
    assert w.grad is not None
    assert not w.grad.any()


@pytest.mark.parametrize("tokens", [1, 17])
def test_a_head_of_no_even_size(tokens: int, device: str) -> None:
    """Rows and vocabulary no multiples of any tile, one row less than a chunk or one more."""
    hidden, weight, targets = draw(tokens, 24, 97, torch.float32, device)
    ones = torch.ones(tokens, device=device)
    h, w = leaf(hidden), leaf(weight)
    policy_loss(h, w, targets, ones, -4 * ones, ones, Ppo(0.2, 9.0), chunk=16).loss.backward()
    th, tw = leaf(hidden, torch.double), leaf(weight, torch.double)
    logp, _ = reference.token_logprobs(th, tw, targets)
    ratio = (logp + 4).exp()
    (-torch.minimum(ratio, ratio.clamp(0.8, 10.0))).sum().backward()
    for mine, right in ((h.grad, th.grad), (w.grad, tw.grad)):
        assert mine is not None
        assert right is not None
        assert relative(mine, right) < 2e-5


def test_a_width_no_descriptor_takes_is_refused(device: str) -> None:
    hidden, weight, targets = draw(3, 18, 33, torch.bfloat16, device)
    with pytest.raises(KernelRefusal, match="16 bytes"):
        token_logprobs(hidden, weight, targets)
