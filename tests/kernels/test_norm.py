"""RMSNorm against float64."""

from __future__ import annotations

import pytest
import torch

from m2gym.kernels.norm import rms_norm
from m2gym.kernels.support import KernelRefusal


def truth(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(1, 16), (3, 17, 48), (70, 33)])
def test_matches_float64(
    shape: tuple[int, ...], dtype: torch.dtype, bound: float, device: str
) -> None:
    x = (torch.randn(shape, device=device) * 3).to(dtype).requires_grad_()
    weight = torch.randn(shape[-1], device=device).to(dtype).requires_grad_()
    tx, tw = (t.detach().double().requires_grad_() for t in (x, weight))
    got, want = rms_norm(x, weight, 1e-6), truth(tx, tw, 1e-6)
    upstream = torch.randn_like(got)
    got.backward(upstream)
    want.backward(upstream.double())
    for mine, right in ((got, want), (x.grad, tx.grad), (weight.grad, tw.grad)):
        assert mine is not None
        assert right is not None
        error = (mine.detach().double() - right.detach()).norm() / right.detach().norm()
        assert float(error) < bound


def test_zeros_nan_and_nothing(device: str) -> None:
    weight = torch.ones(16, device=device)
    x = torch.zeros(3, 16, device=device)
    x[1, 2] = float("nan")
    got = rms_norm(x, weight, 1e-6)
    assert got.isnan().any(dim=1).tolist() == [False, True, False]
    assert (got[[0, 2]] == 0).all()
    assert rms_norm(x[:0], weight, 1e-6).shape == (0, 16)


def test_a_weight_that_does_not_lie_together(device: str) -> None:
    x, both = torch.randn(3, 16, device=device), torch.randn(16, 2, device=device)
    want = rms_norm(x, both[:, 0].contiguous(), 1e-6)
    assert torch.equal(rms_norm(x, both[:, 0], 1e-6), want)


def test_refusals(device: str) -> None:
    wide = torch.zeros(1, 16385, device=device)
    for wrong in (wide, wide[0, 0]):
        with pytest.raises(KernelRefusal, match="at most 16,384"):
            rms_norm(wrong, wide[0], 1e-6)
    with pytest.raises(KernelRefusal, match="one device"):
        rms_norm(wide, wide[0].to("meta"), 1e-6)
    x = torch.zeros(3, 16, device=device)
    with pytest.raises(KernelRefusal, match="weight"):
        rms_norm(x, x[0, :8], 1e-6)
    with pytest.raises(KernelRefusal, match="cast first"):
        rms_norm(x.bfloat16(), x[0], 1e-6)
