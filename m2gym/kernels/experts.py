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

from m2gym.kernels import router
from m2gym.kernels.fp8 import FP8, Fp8Experts, quantize_rows
from m2gym.kernels.grouped import over_rows, sum_rows
from m2gym.kernels.router import Plan
from m2gym.kernels.rows import combine, permute, swiglu_backward
from m2gym.kernels.support import KernelRefusal, check_float, check_runnable
from m2gym.kernels.tuning import row_tile

_KERNEL = "experts"
# Hidden columns that the backward permutes at a time: a tile. The whole width at once is 2 to 7 %
# faster and takes 0.9 GB more at 16,384 tokens (docs/kernels.md).
_SLICE = 256


def _check(
    hidden: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, weights: torch.Tensor
) -> None:
    check_runnable(_KERNEL, hidden, gate_up, down, weights)
    check_float(_KERNEL, hidden=hidden, gate_up=gate_up, down=down)
    experts, double, width = gate_up.shape
    if hidden.shape[-1] != width or tuple(down.shape) != (experts, width, double // 2):
        raise KernelRefusal(
            f"{_KERNEL}: needs hidden (T, H), gate_up (E, 2I, H), down (E, H, I), got "
            f"{tuple(hidden.shape)}, {tuple(gate_up.shape)}, {tuple(down.shape)}"
        )
    if width % 16 or double % 32:
        raise KernelRefusal(
            f"{_KERNEL}: hidden and inner width must be multiples of 16, got {width} and "
            f"{double // 2}; use the eager experts for such a model"
        )
    for name, tensor in (("gate_up", gate_up), ("down", down)):
        if not tensor.is_contiguous():
            raise KernelRefusal(f"{_KERNEL}: {name} must be contiguous; call .contiguous() once")


def _check_fp8(hidden: torch.Tensor, gate_up: torch.Tensor, fp8: Fp8Experts) -> None:
    if hidden.dtype != torch.bfloat16:
        raise KernelRefusal(f"{_KERNEL}: fp8 needs bfloat16 hidden states, got {hidden.dtype}")
    experts, double, width = gate_up.shape
    if width % 32 or double % 64:
        raise KernelRefusal(
            f"{_KERNEL}: fp8 needs hidden and inner widths that are multiples of 32, got {width} "
            f"and {double // 2}; leave out fp8"
        )
    got = (fp8.experts, *fp8.gate_up.values_R_K.shape)
    if got != (experts, experts * double, width):
        raise KernelRefusal(
            f"{_KERNEL}: fp8 holds {got[0]} experts in {got[1:]}, the weights are "
            f"{tuple(gate_up.shape)}; call quantize_experts on these weights"
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
    full fp32 (no tf32), which is slow.

    Args:
        gate_up_E_2I_H: gate rows, then up rows, of every expert (transformers' layout).
        index_T_K: expert ids; an id outside ``[0, E)`` drops its slot.
        weights_T_K: the slots' weights, any floating type.
        plan: the router's plan for these ids, when it is at hand already.
        fp8: these weights in 8 bits (`fp8.quantize_experts`): the forward multiplies them by 8-bit
            tokens; the backward takes the 16-bit weights and what the forward kept.

    Raises:
        KernelRefusal: a device, type, shape or layout the kernels cannot take.
    """
    hidden = hidden_T_H.contiguous()
    _check(hidden, gate_up_E_2I_H, down_E_H_I, weights_T_K)
    count = gate_up_E_2I_H.shape[0]
    if fp8 is not None:
        _check_fp8(hidden, gate_up_E_2I_H, fp8)
    if index_T_K.shape != weights_T_K.shape or index_T_K.shape[0] != hidden.shape[0]:
        raise KernelRefusal(
            f"{_KERNEL}: index and weights must be (T, K) for {hidden.shape[0]} tokens, got "
            f"{tuple(index_T_K.shape)} and {tuple(weights_T_K.shape)}"
        )
    if not hidden.shape[0]:
        return hidden * 1
    if plan is None:
        plan = router.plan(index_T_K, count, row_tile(index_T_K.numel(), count))
    inputs = (hidden, gate_up_E_2I_H, down_E_H_I, weights_T_K.contiguous())
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    out: torch.Tensor = _Experts.apply(*inputs, plan, keep, fp8)
    return out
