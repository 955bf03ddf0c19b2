"""Norm and rotary embedding in one pass, against plain torch in float64."""

from __future__ import annotations

import pytest
import torch

from m2gym.kernels.rotary import norm_rotary
from m2gym.kernels.support import KernelRefusal


def truth(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, width: int
) -> torch.Tensor:
    n = weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    heads = n.view(*x.shape[:-1], -1, width)
    turned, rest = heads[..., : cos.shape[1]], heads[..., cos.shape[1] :]
    half = cos.shape[1] // 2
    across = torch.cat([-turned[..., half:], turned[..., :half]], -1)
    turned = turned * cos[:, None] + across * sin[:, None]
    return torch.cat([turned, rest], -1).view(x.shape)


def angles(tokens: int, turned: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.rand(tokens, turned // 2, device=device).repeat(1, 2) * 6
    return angle.cos(), angle.sin()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("heads", "turned"), [(1, 16), (3, 8), (6, 4)])
def test_matches_float64(
    heads: int, turned: int, dtype: torch.dtype, bound: float, device: str
) -> None:
    x = (torch.randn(2, 9, heads * 16, device=device) * 3).to(dtype).requires_grad_()
    weight = torch.randn(heads * 16, device=device).to(dtype).requires_grad_()
    cos, sin = angles(9, turned, device)
    tx, tw = (t.detach().double().requires_grad_() for t in (x, weight))
    got = norm_rotary(x, weight, cos, sin, 1e-6, 16)
    want = truth(tx, tw, cos.double(), sin.double(), 16)
    upstream = torch.randn_like(got)
    got.backward(upstream)
    want.backward(upstream.double())
    for mine, right in ((got, want), (x.grad, tx.grad), (weight.grad, tw.grad)):
        assert mine is not None
        assert right is not None
        error = (mine.detach().double() - right.detach()).norm() / right.detach().norm()
        assert float(error) < bound


def test_nan_stays_in_its_token_and_nothing_stays_nothing(device: str) -> None:
    weight = torch.ones(32, device=device)
    cos, sin = angles(3, 8, device)
    x = torch.ones(1, 3, 32, device=device)
    x[0, 1, 2] = float("nan")
    got = norm_rotary(x, weight, cos, sin, 1e-6, 16)
    assert got.isnan().any(dim=2).tolist() == [[False, True, False]]
    assert norm_rotary(x[:0], weight, cos, sin, 1e-6, 16).shape == (0, 3, 32)


def test_refusals(device: str) -> None:
    weight = torch.ones(32, device=device)
    cos, sin = angles(3, 8, device)
    x = torch.ones(1, 3, 32, device=device)
    with pytest.raises(KernelRefusal, match="whole heads of 24"):
        norm_rotary(x, weight, cos, sin, 1e-6, 24)
    with pytest.raises(KernelRefusal, match="multiple of T"):
        norm_rotary(x, weight, cos[:2], sin[:2], 1e-6, 16)
    with pytest.raises(KernelRefusal, match="at most 4"):
        norm_rotary(x, weight, cos, sin, 1e-6, 4)
    with pytest.raises(KernelRefusal, match="whole heads of 0"):
        norm_rotary(x, weight, cos, sin, 1e-6, 0)
    with pytest.raises(KernelRefusal, match="multiple of T"):
        norm_rotary(x, weight, cos[:0], sin[:0], 1e-6, 16)
    with pytest.raises(KernelRefusal, match="must be even"):
        norm_rotary(x, weight, cos[:, :5], sin[:, :5], 1e-6, 16)
    with pytest.raises(KernelRefusal, match="x must have 3 dimensions"):
        norm_rotary(x[0], weight, cos, sin, 1e-6, 16)
    with pytest.raises(KernelRefusal, match="cos must have 2 dimensions"):
        norm_rotary(x, weight, cos[None], sin[None], 1e-6, 16)
    with pytest.raises(KernelRefusal, match=r"cos torch\.int64"):
        norm_rotary(x, weight, cos.long(), sin.long(), 1e-6, 16)
    with pytest.raises(KernelRefusal, match="cast first"):
        norm_rotary(x.bfloat16(), weight, cos, sin, 1e-6, 16)
