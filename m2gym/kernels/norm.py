# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
"""RMSNorm in one pass forward and one backward.

    y = w · x / sqrt(mean(x²) + eps)

Eager torch makes some fifteen passes over x and its gradient; beside kernels for the experts
that is a fifth of a whole M2 layer, most of it in the norm over the flattened queries.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from m2gym.kernels.support import KernelRefusal, check_float, check_runnable, programs

_KERNEL = "rms_norm"


@triton.jit
def _forward_kernel(x, weight, y, scales, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    at = row.to(tl.int64) * width + cols
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / width + eps)
    dtype: tl.constexpr = y.dtype.element_ty
    # Rounded before the weight, as transformers' eager norms do.
    normed = (value * scale).to(dtype).to(tl.float32)
    tl.store(y + at, (normed * tl.load(weight + cols, mask=mask).to(tl.float32)).to(dtype), mask)
    tl.store(scales + row, scale)


@triton.jit
def _backward_kernel(
    x, weight, d_y, scales, d_x, partial, rows, width, STRIP: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    w = tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
    d_w = tl.zeros([BLOCK], tl.float32)
    for row in range(program * STRIP, tl.minimum(program * STRIP + STRIP, rows)):
        at = tl.full([BLOCK], width, tl.int64) * row + cols
        scale = tl.load(scales + row)
        normed = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * scale
        d = tl.load(d_y + at, mask=mask, other=0.0).to(tl.float32)
        d_w += d * normed
        d = d * w
        d = scale * (d - normed * (tl.sum(d * normed, axis=0) / width))
        tl.store(d_x + at, d.to(d_x.dtype.element_ty), mask=mask)
    tl.store(partial + program.to(tl.int64) * width + cols, d_w, mask=mask)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        rows, width = x.shape
        y = torch.empty_like(x)
        scales = torch.empty(rows, dtype=torch.float32, device=x.device)
        block = triton.next_power_of_2(width)
        _forward_kernel[(rows,)](x, weight, y, scales, width, eps, BLOCK=block, num_warps=8)
        ctx.save_for_backward(x, weight, scales)
        return y

    @staticmethod
    def backward(ctx: Any, d_y: torch.Tensor) -> Any:
        x, weight, scales = ctx.saved_tensors
        rows, width = x.shape
        # A power of two, so that few kernels are compiled.
        strip = triton.next_power_of_2(triton.cdiv(rows, 8 * programs(x.device)))
        count = triton.cdiv(rows, strip)
        d_x = torch.empty_like(x)
        partial = torch.empty(count, width, dtype=torch.float32, device=x.device)
        _backward_kernel[(count,)](
            x,
            weight,
            d_y.contiguous(),
            scales,
            d_x,
            partial,
            rows,
            width,
            STRIP=strip,
            BLOCK=triton.next_power_of_2(width),
            num_warps=8,
        )
        return d_x, partial.sum(0).to(weight.dtype), None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm over the last axis, differentiable and deterministic; sums in fp32.

    Source: arXiv 1910.07467.

    Args:
        x: (…, W), bf16, fp16 or fp32.
        weight: (W,), of the same type.

    Raises:
        KernelRefusal: a device or type kernels cannot take, a width above 16,384, or a weight
            of another width.
    """
    check_runnable(_KERNEL, x, weight)
    check_float(_KERNEL, x=x, weight=weight)
    width = x.shape[-1] if x.dim() else 0
    if not 0 < width <= 16384 or tuple(weight.shape) != (width,):
        raise KernelRefusal(
            f"{_KERNEL}: needs x (…, W) and a weight (W,) with W at most 16,384, got "
            f"{tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if not x.numel():
        return x * 1
    out: torch.Tensor = _RmsNorm.apply(x.reshape(-1, width).contiguous(), weight.contiguous(), eps)
    return out.view(x.shape)
