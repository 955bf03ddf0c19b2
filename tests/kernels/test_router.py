"""The router against its reference, and the plan against a stable sort."""

from __future__ import annotations

import pytest
import torch

from m2gym.kernels import reference, router
from m2gym.kernels.support import KernelRefusal


def check_plan(index: torch.Tensor, experts: int, plan: router.Plan) -> None:
    """Every property a plan promises, from the ids alone."""
    flat, rows = index.flatten().cpu(), plan.rows_T_K.flatten().cpu()
    counts, starts = plan.counts_E.cpu(), plan.starts_E1.cpu()
    kept = (flat >= 0) & (flat < experts)
    assert torch.equal(counts, torch.bincount(flat[kept], minlength=experts).int())
    padded = (counts + plan.align - 1) // plan.align * plan.align
    assert torch.equal(starts[1:], padded.cumsum(0).int())
    assert starts[0] == 0
    assert starts[-1] <= plan.capacity
    assert (rows[~kept] == -1).all()
    for expert in range(experts):
        mine = rows[flat == expert]
        first = int(starts[expert])
        assert mine.tolist() == list(range(first, first + len(mine)))
    tiles = int(starts[-1]) // plan.align
    owner = torch.repeat_interleave(torch.arange(experts), padded // plan.align)
    assert torch.equal(plan.tile_expert.cpu()[:tiles], owner.int())


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "align"),
    [(1, 4, 1, 16), (37, 6, 2, 16), (70, 16, 8, 4), (19, 40, 3, 64), (1100, 8, 2, 32)],
)
def test_route_matches_reference(
    tokens: int, experts: int, top_k: int, align: int, device: str
) -> None:
    logits = torch.randn(tokens, experts, device=device, requires_grad=True)
    bias = torch.randn(experts, device=device)
    weights, index, plan = router.route(logits, bias, top_k, align=align)
    truth = logits.detach().double().requires_grad_()
    want_weights, want_index = reference.route(truth, bias.double(), top_k)
    assert torch.equal(index.long(), want_index)
    torch.testing.assert_close(weights.double(), want_weights, rtol=1e-5, atol=1e-6)
    check_plan(index, experts, plan)

    upstream = torch.randn_like(weights)
    weights.backward(upstream)
    want_weights.backward(upstream.double())
    assert logits.grad is not None
    assert truth.grad is not None
    torch.testing.assert_close(logits.grad.double(), truth.grad, rtol=1e-4, atol=1e-6)


def test_without_bias_and_in_bf16(device: str) -> None:
    logits = torch.randn(9, 5, device=device).bfloat16().requires_grad_()
    weights, index, _ = router.route(logits, None, 2, align=16)
    want, want_index = reference.route(logits.float(), None, 2)
    assert torch.equal(index.long(), want_index)
    torch.testing.assert_close(weights, want, rtol=1e-5, atol=1e-6)
    weights[:, 0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_equal_scores_go_to_the_lower_id(device: str) -> None:
    _, index, _ = router.route(torch.zeros(3, 8, device=device), None, 4, align=16)
    assert index.tolist() == [[0, 1, 2, 3]] * 3


def test_nan_is_chosen_and_shows(device: str) -> None:
    logits = torch.randn(4, 8, device=device)
    logits[2, 5] = float("nan")
    weights, index, _ = router.route(logits, None, 2, align=16)
    assert 5 in index[2].tolist()
    assert weights[2].isnan().all()
    assert not weights[[0, 1, 3]].isnan().any()
    assert len(set(index[2].tolist())) == 2


@pytest.mark.parametrize("experts", [3, 17])
def test_plan_with_empty_crowded_dropped_and_repeated(experts: int, device: str) -> None:
    index = torch.full((50, 3), 1, device=device)
    index[::7, 0] = experts
    index[::5, 1] = -1
    index[3, :] = 2
    check_plan(index, experts, router.plan(index, experts, 16))


def test_all_dropped(device: str) -> None:
    plan = router.plan(torch.full((5, 2), 9, device=device), 4, 16)
    assert plan.starts_E1.tolist() == [0] * 5
    assert (plan.rows_T_K == -1).all()


def test_same_input_same_plan(device: str) -> None:
    index = torch.randint(0, 8, (200, 4), device=device)
    first, second = (router.plan(index, 8, 32) for _ in range(2))
    assert torch.equal(first.rows_T_K, second.rows_T_K)


def test_the_bias_of_another_type(device: str) -> None:
    logits, bias = torch.randn(7, 5, device=device), torch.randn(5, device=device).half()
    _, index, _ = router.route(logits, bias, 2, align=16)
    assert torch.equal(index.long(), reference.route(logits, bias.float(), 2)[1])


def test_refusals(device: str) -> None:
    logits, index = torch.zeros(2, 4, device=device), torch.zeros(2, 2, device=device).long()
    with pytest.raises(KernelRefusal, match="logits must have 2 dimensions"):
        router.route(logits[0], None, 2)
    with pytest.raises(KernelRefusal, match="cast first"):
        router.route(logits.double(), None, 2)
    for bias in (logits[0, :3], logits, logits[0].long()):
        with pytest.raises(KernelRefusal, match="the bias must be"):
            router.route(logits, bias, 2)
    with pytest.raises(KernelRefusal, match="1 to 1,024 experts, got 1025"):
        router.route(torch.zeros(2, 1025, device=device), None, 2)
    with pytest.raises(KernelRefusal, match="1 to 1,024 experts, got 0"):
        router.plan(index, 0, 16)
    with pytest.raises(KernelRefusal, match="index must be integers"):
        router.plan(logits, 4, 16)
    with pytest.raises(KernelRefusal, match="index must have 2 dimensions"):
        router.plan(index[0], 4, 16)
    with pytest.raises(KernelRefusal, match="one choice"):
        router.plan(index[:, :0], 4, 16)
    with pytest.raises(KernelRefusal, match="top_k must be in"):
        router.route(torch.zeros(2, 4, device=device), None, 5)
    with pytest.raises(KernelRefusal, match="at least one token"):
        router.plan(torch.zeros(0, 2, dtype=torch.long, device=device), 4, 16)
    with pytest.raises(KernelRefusal, match="power of two"):
        router.plan(torch.zeros(2, 2, dtype=torch.long, device=device), 4, 12)
    with pytest.raises(KernelRefusal, match="NVIDIA GPU"):
        router.plan(torch.zeros(2, 2, dtype=torch.long, device="meta"), 4, 16)
