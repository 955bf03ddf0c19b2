"""The experts' forward in 8 bits: rounding, the product it stands for, and the 16-bit backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from m2gym.kernels import reference
from m2gym.kernels.experts import experts
from m2gym.kernels.fp8 import (
    FP8,
    LARGEST,
    Quantized,
    check_card,
    quantize_experts,
    quantize_rows,
)
from m2gym.kernels.support import KernelRefusal
from tests.kernels.test_experts import inputs, relative


def wide(quantized: Quantized, like: torch.Tensor) -> torch.Tensor:
    """What the 8-bit rows stand for, in float64."""
    values = quantized.values_R_K.to(torch.float32).double()
    return (values * quantized.scales_R.double()[:, None]).view(like.shape)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Every row to e4m3 by torch's own cast, in float64."""
    scale = x.double().abs().amax(-1, keepdim=True).clamp(min=1e-30) / LARGEST
    return (x.double() / scale).to(torch.float32).to(FP8).to(torch.float32).double() * scale


def test_rows_are_rounded_as_torch_rounds(device: str) -> None:
    x = torch.randn(9, 80, device=device) * torch.logspace(-4, 4, 9, device=device)[:, None]
    x[3] = 0
    got = quantize_rows(x)
    assert (got.values_R_K[3].to(torch.float32) == 0).all()
    assert got.scales_R[3] == 1
    want = rounded(x)
    near = (wide(got, x) - want).abs() <= 1e-6 * want.abs()
    assert near.double().mean() > 0.99  # a quotient may round to the other side of a tie
    assert (wide(got, x) - x.double()).norm() < 6e-2 * x.double().norm()


def test_a_bad_row_is_bad_alone(device: str) -> None:
    x = torch.randn(4, 32, device=device)
    x[1, 5], x[2, 7] = float("nan"), float("inf")
    got = quantize_rows(x)
    assert got.scales_R.isfinite().tolist() == [True, False, False, True]


def test_rows_that_do_not_lie_together(device: str) -> None:
    x = torch.randn(32, 5, device=device)
    for got, want in zip(
        vars(quantize_rows(x.T)).values(), vars(quantize_rows(x.T.contiguous())).values(),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(got.float(), want.float())


def test_rows_that_are_refused(device: str) -> None:
    x = torch.randn(3, 32, device=device)
    with pytest.raises(KernelRefusal, match="2 dimensions"):
        quantize_rows(x[0])
    with pytest.raises(KernelRefusal, match="cast first"):
        quantize_rows(x.double())
    for rows in (torch.ones(2, dtype=torch.int32), torch.ones(1)):
        with pytest.raises(KernelRefusal, match="one int32"):
            quantize_rows(x, rows.to(device))


def test_a_card_without_8_bit_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    with pytest.raises(KernelRefusal, match="A100-SXM4-80GB multiplies no 8-bit floats"):
        check_card(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_card(torch.device("cuda"))


@pytest.mark.parametrize("tokens", [1, 37])
def test_forward_is_the_product_of_the_rounded(tokens: int, device: str) -> None:
    case = inputs(tokens, 96, 32, 5, 2, torch.bfloat16, device)
    fp8 = quantize_experts(case["gate_up"], case["down"])
    out = experts(*case.values(), fp8=fp8)
    exact = {k: v.double() if v.is_floating_point() else v for k, v in case.items()}
    as_held = dict(exact)
    as_held["gate_up"] = wide(fp8.gate_up, case["gate_up"])
    as_held["down"] = wide(fp8.down, case["down"])
    as_held["hidden"] = wide(quantize_rows(case["hidden"]), case["hidden"])
    held = reference.experts(*as_held.values())
    assert relative(out, held) < 4e-2  # the inner activation is rounded once more
    assert relative(out, reference.experts(*exact.values())) < 1e-1
    assert relative(out, experts(*case.values()).double()) > 1e-3, "8 bits were not used"


def test_backward_is_that_of_16_bits_at_what_the_forward_kept(device: str) -> None:
    case = inputs(45, 32, 32, 4, 2, torch.bfloat16, device)
    fp8 = quantize_experts(case["gate_up"], case["down"])
    grads = []
    upstream = torch.randn_like(case["hidden"])
    for chosen in (fp8, None):
        leaves = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in case.items()}
        experts(*leaves.values(), fp8=chosen).backward(upstream)
        grads.append({k: v.grad for k, v in leaves.items() if v.grad is not None})
    assert set(grads[0]) == {"hidden", "gate_up", "down", "weights"}
    for name, ours in grads[0].items():
        assert relative(ours, grads[1][name].double()) < 1e-1, name


def test_equal_bits(device: str) -> None:
    case = inputs(36, 32, 32, 2, 2, torch.bfloat16, device)
    fp8 = quantize_experts(case["gate_up"], case["down"])
    assert torch.equal(experts(*case.values(), fp8=fp8), experts(*case.values(), fp8=fp8))


def test_experts_without_rows_and_dropped_slots(device: str) -> None:
    case = inputs(20, 32, 32, 6, 2, torch.bfloat16, device)
    case["index"] = case["index"] % 2
    case["index"][::3, 0] = 6
    fp8 = quantize_experts(case["gate_up"], case["down"])
    assert relative(experts(*case.values(), fp8=fp8), experts(*case.values()).double()) < 1e-1


def test_refusals(device: str) -> None:
    case = inputs(1, 32, 32, 2, 1, torch.bfloat16, device)
    with pytest.raises(KernelRefusal, match=r"down \(E, H, I\)"):
        quantize_experts(case["gate_up"], case["down"][..., :16])
    fp8 = quantize_experts(case["gate_up"][:1], case["down"][:1])
    with pytest.raises(KernelRefusal, match="call quantize_experts on these weights"):
        experts(*case.values(), fp8=fp8)
    fp8 = quantize_experts(case["gate_up"], case["down"])
    full = {k: v.float() if v.is_floating_point() else v for k, v in case.items()}
    with pytest.raises(KernelRefusal, match="bfloat16 hidden states"):
        experts(*full.values(), fp8=fp8)
    with pytest.raises(KernelRefusal, match="call quantize_experts on these weights"):
        experts(*case.values(), fp8=replace(fp8, down=fp8.gate_up))
    odd = inputs(1, 32, 16, 1, 1, torch.bfloat16, device)
    with pytest.raises(KernelRefusal, match="multiples of 32"):
        experts(*odd.values(), fp8=quantize_experts(odd["gate_up"], odd["down"]))
