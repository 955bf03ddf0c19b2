# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Between the products: tokens to rows, rows to tokens, and SwiGLU's backward. Memory-bound."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from m2gym.kernels.router import Plan


@triton.jit
def _zero_padding(out, counts, starts, expert, width, BLOCK: tl.constexpr):
    first = tl.load(starts + expert) + tl.load(counts + expert)
    for row in range(first, tl.load(starts + expert + 1)):
        for start in range(0, width, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            zero = tl.zeros([BLOCK], out.dtype.element_ty)
            at = tl.full([BLOCK], width, tl.int64) * row + cols
            tl.store(out + at, zero, mask=cols < width)


@triton.jit
def _permute_kernel(
    x, rows, out, counts, starts, tokens, stride, width, K: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0)
    if token < tokens:
        for start in range(0, width, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            value = tl.load(x + token.to(tl.int64) * stride + cols, mask=cols < width)
            for k in tl.static_range(K):
                row = tl.load(rows + token.to(tl.int64) * K + k).to(tl.int64)
                tl.store(out + row * width + cols, value, mask=cols < tl.where(row >= 0, width, 0))
    else:
        _zero_padding(out, counts, starts, token - tokens, width, BLOCK)


@triton.jit
def _combine_kernel(
    y, rows, weights, out, width, K: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        acc = tl.zeros([BLOCK], tl.float32)
        for k in tl.static_range(K):
            row = tl.load(rows + token * K + k).to(tl.int64)
            value = tl.load(
                y + row * width + cols, mask=cols < tl.where(row >= 0, width, 0), other=0.0
            )
            value = value.to(tl.float32)
            if WEIGHTED:
                value = value * tl.where(row >= 0, tl.load(weights + token * K + k), 0.0)
            acc += value
        tl.store(out + token * width + cols, acc.to(out.dtype.element_ty), mask=cols < width)


@triton.jit
def _swiglu_backward_kernel(
    d_inner,
    gate_up,
    weights,
    rows,
    d_weights,
    counts,
    starts,
    slots,
    width,
    BLOCK: tl.constexpr,
):
    slot = tl.program_id(0)
    if slot < slots:
        row = tl.load(rows + slot).to(tl.int64)
        total = tl.zeros([BLOCK], tl.float32)
        if row >= 0:
            weight = tl.load(weights + slot).to(tl.float32)
            for start in range(0, width, BLOCK):
                cols = start + tl.arange(0, BLOCK)
                mask = cols < width
                at = row * width + cols
                pair = row * 2 * width + cols
                d = tl.load(d_inner + at, mask=mask, other=0.0).to(tl.float32)
                gate = tl.load(gate_up + pair, mask=mask, other=0.0).to(tl.float32)
                up = tl.load(gate_up + pair + width, mask=mask, other=0.0).to(tl.float32)
                sigmoid = 1.0 / (1.0 + tl.exp(-gate))
                silu = gate * sigmoid
                total += d * silu * up
                d = d * weight
                d_gate = d * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
                dtype = gate_up.dtype.element_ty
                tl.store(gate_up + pair, d_gate.to(dtype), mask=mask)
                tl.store(gate_up + pair + width, (d * silu).to(dtype), mask=mask)
                tl.store(d_inner + at, (weight * silu * up).to(dtype), mask=mask)
        tl.store(d_weights + slot, tl.sum(total, axis=0))
    else:
        _zero_padding(gate_up, counts, starts, slot - slots, 2 * width, BLOCK)


def _block(width: int) -> int:
    return min(2048, int(triton.next_power_of_2(width)))


def permute(x_T_H: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Every token's row copied to where its slots lie, zeros in the rows that pad.

    The columns of ``x`` must lie together; it may be a slice of columns.
    """
    tokens, width = x_T_H.shape
    out = torch.empty(plan.capacity, width, dtype=x_T_H.dtype, device=x_T_H.device)
    _permute_kernel[(tokens + plan.experts,)](
        x_T_H,
        plan.rows_T_K,
        out,
        plan.counts_E,
        plan.starts_E1,
        tokens,
        x_T_H.stride(0),
        width,
        K=plan.rows_T_K.shape[1],
        BLOCK=_block(width),
        num_warps=4,
    )
    return out


def combine(y_R_H: torch.Tensor, weights_T_K: torch.Tensor | None, plan: Plan) -> torch.Tensor:
    """``sum over k of weights[t, k] · y[row of (t, k)]``: a read a slot, no atomics."""
    tokens, top_k = plan.rows_T_K.shape
    width = y_R_H.shape[1]
    out = torch.empty(tokens, width, dtype=y_R_H.dtype, device=y_R_H.device)
    _combine_kernel[(tokens,)](
        y_R_H,
        plan.rows_T_K,
        y_R_H if weights_T_K is None else weights_T_K,
        out,
        width,
        K=top_k,
        WEIGHTED=weights_T_K is not None,
        BLOCK=_block(width),
        num_warps=4,
    )
    return out


def swiglu_backward(
    d_inner_R_I: torch.Tensor,
    gate_up_R_2I: torch.Tensor,
    weights_T_K: torch.Tensor,
    plan: Plan,
) -> torch.Tensor:
    """SwiGLU recomputed and gone through backwards, with the combine's weight, in place.

    ``d_inner_R_I`` (the gradient of the inner activation before the weight) is overwritten with
    the weighted inner activation, which the down projection's gradient needs, and
    ``gate_up_R_2I`` with its own gradient.

    Returns:
        The gradient of the weights (T, K) in fp32.
    """
    width = d_inner_R_I.shape[1]
    d_weights = torch.empty(weights_T_K.shape, dtype=torch.float32, device=weights_T_K.device)
    slots = weights_T_K.numel()
    _swiglu_backward_kernel[(slots + plan.experts,)](
        d_inner_R_I,
        gate_up_R_2I,
        weights_T_K,
        plan.rows_T_K,
        d_weights,
        plan.counts_E,
        plan.starts_E1,
        slots,
        width,
        BLOCK=_block(width),
        num_warps=4,
    )
    return d_weights
