# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
"""RMSNorm over all heads of a token and partial rotary embedding, in one pass each way.

    n = w · x / sqrt(mean(x²) + eps)         over the flattened heads, as M2 norms q and k
    y_d = n_d · cos_d ∓ n_p · sin_d          d in the first R of a head's D dimensions; p its
                                             partner R/2 away; the others pass through

Eager torch slices, negates, multiplies, adds and concatenates: some ten passes over q and k.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from m2gym.kernels.support import (
    KernelRefusal,
    check_float,
    check_rank,
    check_runnable,
    programs,
)

_KERNEL = "norm_rotary"


@triton.jit
def _partner(cols, D: tl.constexpr, R: tl.constexpr):
    d = cols % D
    ahead = tl.where(d < R // 2, cols + R // 2, cols - R // 2)
    return d, d < R, tl.where(d < R, ahead, cols)


@triton.jit
def _forward_kernel(
    x, weight, cos, sin, y, scales, width, positions, eps,
    D: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    d, turns, other = _partner(cols, D, R)
    turns = turns & mask
    at = x + row.to(tl.int64) * width
    value = tl.load(at + cols, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / width + eps)
    dtype: tl.constexpr = y.dtype.element_ty
    # Rounded where transformers' eager norm rounds.
    n = (value * scale).to(dtype).to(tl.float32) * tl.load(weight + cols, mask=mask).to(tl.float32)
    n = n.to(dtype).to(tl.float32)
    pair = tl.load(at + other, mask=turns, other=0.0).to(tl.float32)
    pair = (pair * scale).to(dtype).to(tl.float32)
    pair = pair * tl.load(weight + other, mask=turns, other=0.0).to(tl.float32)
    pair = pair.to(dtype).to(tl.float32)
    angle = (row % positions).to(tl.int64) * R + d
    c = tl.load(cos + angle, mask=turns, other=1.0).to(tl.float32)
    s = tl.load(sin + angle, mask=turns, other=0.0).to(tl.float32)
    turned = n * c + tl.where(d < R // 2, -pair, pair) * s
    tl.store(y + row.to(tl.int64) * width + cols, tl.where(turns, turned, n).to(dtype), mask=mask)
    tl.store(scales + row, scale)


@triton.jit
def _backward_kernel(
    x, weight, cos, sin, d_y, scales, d_x, partial, rows, width, positions,
    D: tl.constexpr, R: tl.constexpr, STRIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    d, turns, other = _partner(cols, D, R)
    turns = turns & mask
    w = tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
    d_w = tl.zeros([BLOCK], tl.float32)
    for row in range(program * STRIP, tl.minimum(program * STRIP + STRIP, rows)):
        start = tl.full([BLOCK], width, tl.int64) * row
        angle = tl.zeros([BLOCK], tl.int32) + row % positions * R
        scale = tl.load(scales + row)
        normed = tl.load(x + start + cols, mask=mask, other=0.0).to(tl.float32) * scale
        g = tl.load(d_y + start + cols, mask=mask, other=0.0).to(tl.float32)
        pair = tl.load(d_y + start + other, mask=turns, other=0.0).to(tl.float32)
        c = tl.load(cos + angle + d, mask=turns, other=1.0).to(tl.float32)
        s = tl.load(sin + angle + other % D, mask=turns, other=0.0).to(tl.float32)
        g = tl.where(turns, g * c + tl.where(d < R // 2, pair, -pair) * s, g)
        d_w += g * normed
        g = g * w
        g = scale * (g - normed * (tl.sum(g * normed, axis=0) / width))
        tl.store(d_x + start + cols, g.to(d_x.dtype.element_ty), mask=mask)
    tl.store(partial + program.to(tl.int64) * width + cols, d_w, mask=mask)


class _NormRotary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
        eps: float, width: int,
    ) -> torch.Tensor:  # fmt: skip
        rows, total = x.shape
        y = torch.empty_like(x)
        scales = torch.empty(rows, dtype=torch.float32, device=x.device)
        _forward_kernel[(rows,)](
            x, weight, cos, sin, y, scales, total, len(cos), eps, D=width, R=cos.shape[1],
            BLOCK=triton.next_power_of_2(total), num_warps=8,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, cos, sin, scales)
        ctx.width = width
        return y

    @staticmethod
    def backward(ctx: Any, d_y: torch.Tensor) -> Any:
        x, weight, cos, sin, scales = ctx.saved_tensors
        rows, total = x.shape
        strip = triton.next_power_of_2(triton.cdiv(rows, 8 * programs(x.device)))
        count = triton.cdiv(rows, strip)
        d_x = torch.empty_like(x)
        partial = torch.empty(count, total, dtype=torch.float32, device=x.device)
        _backward_kernel[(count,)](
            x, weight, cos, sin, d_y.contiguous(), scales, d_x, partial, rows, total, len(cos),
            D=ctx.width, R=cos.shape[1], STRIP=strip, BLOCK=triton.next_power_of_2(total),
            num_warps=8,
        )  # fmt: skip
        return d_x, partial.sum(0).to(weight.dtype), None, None, None, None


def norm_rotary(
    x_B_T_W: torch.Tensor,
    weight_W: torch.Tensor,
    cos_T_R: torch.Tensor,
    sin_T_R: torch.Tensor,
    eps: float,
    head_width: int,
) -> torch.Tensor:
    """RMSNorm over W = heads · head_width, then rotary embedding of each head, differentiable.

    Source: M2's attention (arXiv 2605.26494, architecture; transformers ``minimax_m2``).

    Args:
        x_B_T_W: bf16, fp16 or fp32; B rows of T tokens. Every row has the same positions, or cos
            and sin hold B · T.
        weight_W: of x's type.
        cos_T_R, sin_T_R: of every position, floats of any type, the two halves of R equal in angle
            (transformers'); R is even, at most ``head_width``.

    Returns:
        (B, T, W); view it as heads.

    Raises:
        KernelRefusal: a device or type kernels cannot take, or shapes that do not belong together.
    """
    check_runnable(_KERNEL, x_B_T_W, weight_W, cos_T_R, sin_T_R)
    check_float(_KERNEL, x=x_B_T_W, weight=weight_W)
    check_rank(_KERNEL, 3, x=x_B_T_W)
    check_rank(_KERNEL, 2, cos=cos_T_R, sin=sin_T_R)
    check_float(_KERNEL, cos=cos_T_R, sin=sin_T_R)
    width, turned = x_B_T_W.shape[-1], cos_T_R.shape[-1]
    rows = x_B_T_W.numel() // max(width, 1)
    if (
        tuple(weight_W.shape) != (width,)
        or not 0 < width <= 16384
        or head_width < 1
        or width % head_width
    ):
        raise KernelRefusal(
            f"{_KERNEL}: needs a weight ({width},) of whole heads of {head_width}, at most 16,384, "
            f"got {tuple(weight_W.shape)}"
        )
    if cos_T_R.shape != sin_T_R.shape or (rows and (not len(cos_T_R) or rows % len(cos_T_R))):
        raise KernelRefusal(
            f"{_KERNEL}: needs cos and sin (T, R) with {rows} rows a multiple of T, got "
            f"{tuple(cos_T_R.shape)} and {tuple(sin_T_R.shape)}"
        )
    if turned % 2 or turned > head_width:
        raise KernelRefusal(
            f"{_KERNEL}: the turned dimensions must be even and at most {head_width}, got {turned}"
        )
    if not x_B_T_W.numel():
        return x_B_T_W * 1
    out: torch.Tensor = _NormRotary.apply(
        x_B_T_W.reshape(-1, width).contiguous(), weight_W.contiguous(), cos_T_R.contiguous(),
        sin_T_R.contiguous(), eps, head_width,
    )  # fmt: skip
    return out.view(x_B_T_W.shape)
