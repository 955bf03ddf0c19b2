"""On a card: real widths against float64, and races looked for by repeated runs."""

from __future__ import annotations

import pytest
import torch

from m2gym.kernels.bench.attention import check_tree
from m2gym.kernels.bench.experts import check_experts, experts_inputs
from m2gym.kernels.bench.measure import Row, extra_gb
from m2gym.kernels.experts import experts
from m2gym.kernels.logprobs import Cispo, policy_loss
from m2gym.kernels.peers import turns_tree
from m2gym.kernels.tree_attention import tree_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def errors(row: Row) -> list[float]:
    return [value for key, value in row.items() if key not in ("work", "how")]


def test_experts_at_m2s_width() -> None:
    for row in check_experts():
        bound = 1e-1 if "fp8" in row["how"] else 1e-2
        assert max(errors(row)) < bound, row


def test_tree_attention_on_each_library() -> None:
    for row in check_tree(*turns_tree(24)):
        assert max(errors(row)) < 1e-2, row


def test_experts_repeat_to_the_bit() -> None:
    inputs = experts_inputs((1024, 512, 32, 4), 3000, "zipf")
    first: list[torch.Tensor] = []
    for _ in range(20):
        for x in inputs:
            x.grad = None
        out = experts(*inputs)
        out.backward(torch.ones_like(out))
        got = [out.detach(), *(x.grad for x in inputs if x.grad is not None)]
        first = first or got
        assert all(torch.equal(a, b) for a, b in zip(first, got, strict=True))


def test_policy_loss_repeats_to_the_bit() -> None:
    hidden = torch.randn(1500, 256, device="cuda").bfloat16().requires_grad_()
    head = torch.randn(50_001, 256, device="cuda").bfloat16()
    targets = torch.randint(0, 50_001, (1500,), device="cuda")
    ones = torch.ones(1500, device="cuda")
    first: list[torch.Tensor] = []
    for _ in range(10):
        hidden.grad = None
        out = policy_loss(hidden, head, targets, ones, -9 * ones, ones, Cispo(), chunk=640)
        out.loss.backward()
        assert hidden.grad is not None
        got = [out.logprobs_T, out.entropy_T, hidden.grad]
        first = first or got
        assert all(torch.equal(a, b) for a, b in zip(first, got, strict=True))


def test_tree_attention_repeats_to_the_bit_when_asked_to() -> None:
    starts, parents = turns_tree(48)
    leaves = [
        torch.randn(starts[-1], heads, 128, device="cuda").bfloat16().requires_grad_()
        for heads in (12, 2, 2)
    ]
    first: list[torch.Tensor] = []
    for _ in range(20):
        for x in leaves:
            x.grad = None
        out = tree_attention(*leaves, starts, parents, deterministic=True)
        out.backward(torch.ones_like(out))
        got = [out.detach(), *(x.grad for x in leaves if x.grad is not None)]
        first = first or got
        assert all(torch.equal(a, b) for a, b in zip(first, got, strict=True))


def test_the_backwards_memory_is_what_is_kept_and_a_slice() -> None:
    """Beside the gradients at most the activations kept and one slice of permuted tokens."""
    inputs = experts_inputs((2048, 512, 64, 4), 16384, "balanced")
    leaves = [x for x in inputs if x.requires_grad]
    upstream = torch.randn_like(inputs[0])
    spent = extra_gb(lambda: experts(*inputs).backward(upstream), leaves)
    rows = 16384 * 4 + 64 * 127
    out, kept, part = 16384 * 2048 * 2, rows * 1024 * 2, rows * 512 * 2
    assert spent * 1e9 < 1.2 * (out + kept + part + 2 * rows * 512 * 2)
