# mypy: disable-error-code="no-untyped-call"
"""The mixture of experts, forward and backward, as one autograd function.

    forward    rows = permute(x)  ->  inner = SwiGLU(rows @ gate_up)  ->  y = inner @ down
               ->  out = sum_k w_k y
    saved      x and gate_up's output before the activation: 4·I bytes a row in bf16
    backward   d_rows = permute(d_out)  ->  d_inner = d_rows @ down  ->  SwiGLU's backward, in
               place (the activation recomputed; d_w = <d_inner, inner>, so y need not be kept)
               ->  d_down = sum over rows  ->  d_x = combine(d_kept @ gate_up)
               ->  d_gate_up = sum over rows, a slice of columns at a time

No atomics anywhere: equal inputs give equal bits, on any schedule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from m2gym.kernels import router
from m2gym.kernels.fp8 import FP8, Fp8Experts, quantize_rows
from m2gym.kernels.grouped import over_rows, sum_rows
from m2gym.kernels.router import Plan
from m2gym.kernels.rows import combine, permute, swiglu_backward
from m2gym.kernels.support import KernelRefusal, check_float, check_rank, check_runnable
from m2gym.kernels.tuning import row_tile

_KERNEL = "experts"
# Hidden columns that the backward permutes at a time: a tile. The whole width at once is 2 to 7 %
# faster and takes 0.9 GB more at 16,384 tokens (docs/kernels.md).
_SLICE = 256


def _check(
    hidden: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, index: torch.Tensor,
    weights: torch.Tensor,
) -> None:  # fmt: skip
    check_runnable(_KERNEL, hidden, gate_up, down, index, weights)
    check_float(_KERNEL, hidden=hidden, gate_up=gate_up, down=down)
    check_float(_KERNEL, weights=weights)
    check_rank(_KERNEL, 2, hidden=hidden, index=index, weights=weights)
    check_rank(_KERNEL, 3, gate_up=gate_up, down=down)
    experts, double, width = gate_up.shape
    shapes = (hidden.shape[1], double % 2, *down.shape)
    if shapes != (width, 0, experts, width, double // 2) or not gate_up.numel():
        raise KernelRefusal(
            f"{_KERNEL}: needs hidden (T, H), gate_up (E, 2I, H), down (E, H, I), got "
            f"{tuple(hidden.shape)}, {tuple(gate_up.shape)}, {tuple(down.shape)}"
        )
    if index.shape != weights.shape or index.shape[0] != hidden.shape[0]:
        raise KernelRefusal(
            f"{_KERNEL}: index and weights must be (T, K) for {hidden.shape[0]} tokens, got "
            f"{tuple(index.shape)} and {tuple(weights.shape)}"
        )
    for name, tensor in (("gate_up", gate_up), ("down", down)):
        if not tensor.is_contiguous():
            raise KernelRefusal(f"{_KERNEL}: {name} must be contiguous; call .contiguous() once")


def _check_plan(plan: Plan, index: torch.Tensor, experts: int) -> None:
    got = plan.rows_T_K.shape, plan.experts, plan.rows_T_K.device
    if got != (index.shape, experts, index.device) or plan.align < 16:
        raise KernelRefusal(
            f"{_KERNEL}: the plan is of {tuple(got[0])} ids of {got[1]} experts in tiles of "
            f"{plan.align} rows on {got[2]}; needs one of {tuple(index.shape)} ids of {experts} "
            f"experts in tiles of at least 16 on {index.device}; leave it out"
        )


def _padded(
    hidden: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both widths filled up to multiples of 16 with zeros, which add nothing; differentiable.

    It copies the weights: small models have such widths, large ones do not.
    """
    experts, double, width = gate_up.shape
    more, more_inner = -width % 16, -(double // 2) % 16
    gate_up = functional.pad(gate_up.view(experts, 2, -1, width), (0, more, 0, more_inner))
    down = functional.pad(down, (0, more_inner, 0, more))
    return functional.pad(hidden, (0, more)), gate_up.flatten(1, 2), down


def _check_fp8(hidden: torch.Tensor, gate_up: torch.Tensor, fp8: Fp8Experts) -> None:
    if hidden.dtype != torch.bfloat16:
        raise KernelRefusal(f"{_KERNEL}: fp8 needs bfloat16 hidden states, got {hidden.dtype}")
    experts, double, width = gate_up.shape
    if width % 32 or double % 64:
        raise KernelRefusal(
            f"{_KERNEL}: fp8 needs hidden and inner widths that are multiples of 32, got {width} "
            f"and {double // 2}; leave out fp8"
        )
    held = fp8.gate_up.values_R_K, fp8.down.values_R_K
    got = (fp8.experts, *(tuple(values.shape) for values in held))
    want = (experts, (experts * double, width), (experts * width, double // 2))
    if got != want or any(values.device != gate_up.device for values in held):
        raise KernelRefusal(
            f"{_KERNEL}: fp8 holds {got[0]} experts in {got[1]} and {got[2]} on {held[0].device}, "
            f"the weights are {tuple(gate_up.shape)} on {gate_up.device}; call quantize_experts on "
            "these weights"
        )


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        weights: torch.Tensor,
        plan: Plan,
        keep: bool,
        fp8: Fp8Experts | None,
    ) -> torch.Tensor:
        if fp8 is None:
            inner, kept = over_rows(
                "up", permute(hidden, plan), gate_up, plan, swiglu=True, keep=keep
            )
            y, _ = over_rows("down", inner, down, plan)
            del inner
        else:
            y, kept = _in_8_bits(hidden, fp8, plan, keep)
        if keep:
            ctx.save_for_backward(hidden, gate_up, down, weights, kept)
            ctx.plan, ctx.spent = plan, False
        return combine(y, weights, plan)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> Any:
        if ctx.spent:
            raise KernelRefusal(
                f"{_KERNEL}: taken backward once already; its gradients were written over what it "
                "had kept. Call it again for a second backward"
            )
        ctx.spent = True
        hidden, gate_up, down, weights, kept = ctx.saved_tensors
        plan: Plan = ctx.plan
        need_hidden, need_gate_up, need_down = ctx.needs_input_grad[:3]
        d_rows = permute(d_out.contiguous(), plan)
        d_inner, _ = over_rows("d_inner", d_rows, down, plan, transposed=True)
        d_weights = swiglu_backward(d_inner, kept, weights, plan)  # kept is its gradient from here
        d_down = sum_rows("d_down", d_rows, d_inner, plan) if need_down else None
        del d_rows, d_inner
        d_gate_up = d_hidden = None
        if need_hidden:
            y, _ = over_rows("d_rows", kept, gate_up, plan, transposed=True)
            d_hidden = combine(y, None, plan)
            del y
        if need_gate_up:
            d_gate_up = _d_gate_up(kept, hidden, gate_up, plan)
        return d_hidden, d_gate_up, d_down, d_weights.to(weights.dtype), None, None, None


def _in_8_bits(
    hidden: torch.Tensor, fp8: Fp8Experts, plan: Plan, keep: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The two products from 8-bit operands: the rows' results, and what ``keep`` kept in bf16."""
    tokens = quantize_rows(hidden)
    rows = permute(tokens.values_R_K.view(torch.uint8), plan).view(FP8)
    scales = permute(tokens.scales_R[:, None], plan)[:, 0]
    gate_up, down = fp8.gate_up, fp8.down
    inner, kept = over_rows(
        "up", rows, gate_up.values_R_K.view(fp8.experts, -1, hidden.shape[1]), plan,
        swiglu=True, keep=keep, scales=(scales, gate_up.scales_R),
    )  # fmt: skip
    del rows
    small = quantize_rows(inner, plan.starts_E1[fp8.experts :])
    del inner
    y, _ = over_rows(
        "down", small.values_R_K, down.values_R_K.view(fp8.experts, hidden.shape[1], -1), plan,
        scales=(small.scales_R, down.scales_R),
    )  # fmt: skip
    return y, kept


def _d_gate_up(
    d_kept: torch.Tensor, hidden: torch.Tensor, gate_up: torch.Tensor, plan: Plan
) -> torch.Tensor:
    """The sum over rows, a slice of hidden columns at a time: a whole permuted copy of the tokens
    beside the gradients would be the peak of the backward's memory."""
    out = torch.empty_like(gate_up)
    width = hidden.shape[1]
    step = _SLICE if width % _SLICE == 0 else width
    for column in range(0, width, step):
        part = permute(hidden[:, column : column + step], plan)
        sum_rows("d_gate_up", d_kept, part, plan, out=out, column=column)
        del part
    return out


def experts(
    hidden_T_H: torch.Tensor,
    gate_up_E_2I_H: torch.Tensor,
    down_E_H_I: torch.Tensor,
    index_T_K: torch.Tensor,
    weights_T_K: torch.Tensor,
    *,
    plan: Plan | None = None,
    fp8: Fp8Experts | None = None,
) -> torch.Tensor:
    """sum_k w_k · down(silu(gate(x)) · up(x)) over each token's experts, differentiable.

    Deterministic. Products are bf16 (or fp16) with fp32 sums; fp32 operands are multiplied in
    full fp32 (no tf32), which is slow. Widths that are no multiples of 16 are filled up with zeros
    at every call, which copies the weights. The backward runs once.

    Source: the mixture of The MiniMax-M2 Series (arXiv 2605.26494), architecture.

    Args:
        hidden_T_H: tokens, bf16, fp16 or fp32, as both weights; without tokens the result is empty
            and the weights get no gradient.
        gate_up_E_2I_H: gate rows, then up rows, of every expert (transformers' layout).
        down_E_H_I: contiguous, as ``gate_up``.
        index_T_K: integer expert ids; an id outside ``[0, E)`` drops its slot.
        weights_T_K: the slots' weights, bf16, fp16 or fp32, whatever the tokens' type.
        plan: the router's plan for these ids, when it is at hand already.
        fp8: these weights in 8 bits (`fp8.quantize_experts`): the forward multiplies them by 8-bit
            tokens; the backward takes the 16-bit weights and what the forward kept.

    Returns:
        (T, H), in the tokens' type.

    Raises:
        KernelRefusal: a device, type, shape or layout the kernels cannot take.
    """
    hidden, gate_up, down = hidden_T_H.contiguous(), gate_up_E_2I_H, down_E_H_I
    _check(hidden, gate_up, down, index_T_K, weights_T_K)
    count, double, width = gate_up.shape
    if fp8 is not None:
        _check_fp8(hidden, gate_up, fp8)
    if not hidden.shape[0]:
        return hidden * 1
    if plan is None:
        plan = router.plan(index_T_K, count, row_tile(index_T_K.numel(), count))
    else:
        _check_plan(plan, index_T_K, count)
    if width % 16 or double % 32:
        hidden, gate_up, down = _padded(hidden, gate_up, down)
    inputs = (hidden, gate_up, down, weights_T_K.contiguous())
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    out: torch.Tensor = _Experts.apply(*inputs, plan, keep, fp8)
    return out if out.shape[1] == width else out[:, :width]
