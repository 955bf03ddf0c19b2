# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Rows in 8 bits with a scale each: operands of the experts' forward products.

A row of activations (a token) and a row of weights (an output channel) are each divided by
``amax / 448`` and rounded to e4m3 (4 bits of exponent, 3 of mantissa, largest number 448), so that
an entry of the product is token scale times channel scale times a sum of 8-bit products, summed in
fp32. The backward stays in 16 bits (`m2gym.kernels.experts`). Scaling by row and channel is this
project's choice; the M2 papers do not say how they quantise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from m2gym.kernels.support import (
    KernelRefusal,
    check_float,
    check_rank,
    check_runnable,
    interpreting,
)

FP8 = torch.float8_e4m3fn
LARGEST = 448.0


@dataclass(frozen=True)
class Quantized:
    """``values[r] * scales[r]`` is about the row it was made of.

    Attributes:
        values_R_K: e4m3, (rows, K).
        scales_R: fp32, (rows,); 1 for a row of zeros.
    """

    values_R_K: torch.Tensor
    scales_R: torch.Tensor


@dataclass(frozen=True)
class Fp8Experts:
    """A mixture's weights in 8 bits, a scale an output channel: make it once an optimiser step.

    Attributes:
        gate_up: (E · 2I, H).
        down: (E · H, I).
        experts: E.
    """

    gate_up: Quantized
    down: Quantized
    experts: int


@triton.jit
def _quantize_kernel(
    x,
    values,
    scales,
    rows,
    width,
    LARGEST: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if row < tl.load(rows):
        largest = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            part = tl.load(x + row * width + cols, mask=cols < width, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, tl.abs(part), propagate_nan=tl.PropagateNan.ALL)
        amax = tl.max(largest, axis=0)
        amax = tl.where(tl.sum((largest != largest).to(tl.int32), axis=0) > 0, float("nan"), amax)
        scale = tl.where(amax == 0.0, 1.0, amax / LARGEST)
        tl.store(scales + row, scale)
        for start in range(0, width, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            part = tl.load(x + row * width + cols, mask=cols < width, other=0.0).to(tl.float32)
            part = tl.clamp(part / scale, -LARGEST, LARGEST)
            if (
                INTERPRETED
            ):  # its cast loses the carry of a rounding: round to 4 bits here (Veltkamp)
                above = part * 1048577.0
                part = above - (above - part)
            tl.store(values + row * width + cols, part.to(values.dtype.element_ty),
                     mask=cols < width)  # fmt: skip


def quantize_rows(x_R_K: torch.Tensor, rows: torch.Tensor | None = None) -> Quantized:
    """Every row by its own largest magnitude; a row with NaN or infinity has a scale
    that is not finite.

    Args:
        x_R_K: bf16, fp16 or fp32.
        rows: how many rows there are, int32 of one element on the device; the rest stays unwritten.

    Raises:
        KernelRefusal: a device, type or shape the kernel cannot take, or ``rows`` that is no int32.
    """
    check_runnable("fp8", x_R_K, *([] if rows is None else [rows]))
    check_float("fp8", rows=x_R_K)
    check_rank("fp8", 2, rows=x_R_K)
    if rows is not None and (rows.dtype != torch.int32 or rows.numel() != 1):
        raise KernelRefusal(
            f"fp8: the number of rows must be one int32, got {rows.numel()} of {rows.dtype}"
        )
    x_R_K = x_R_K.contiguous()
    count, width = x_R_K.shape
    values = torch.empty(count, width, dtype=FP8, device=x_R_K.device)
    scales = torch.empty(count, dtype=torch.float32, device=x_R_K.device)
    if count:
        if rows is None:
            rows = torch.full((1,), count, dtype=torch.int32, device=x_R_K.device)
        block = min(4096, int(triton.next_power_of_2(width)))
        _quantize_kernel[(count,)](
            x_R_K,
            values,
            scales,
            rows,
            width,
            LARGEST=LARGEST,
            INTERPRETED=interpreting(),
            BLOCK=block,
            num_warps=4,
        )
    return Quantized(values, scales)


def quantize_experts(gate_up_E_2I_H: torch.Tensor, down_E_H_I: torch.Tensor) -> Fp8Experts:
    """The weights of a mixture for `m2gym.kernels.experts.experts` with ``fp8=``.

    Args:
        gate_up_E_2I_H, down_E_H_I: as `m2gym.kernels.experts.experts` takes them.

    Raises:
        KernelRefusal: a device without 8-bit products (before Hopper and Ada), or weights that
            are not floats of one type or do not belong together.
    """
    check_runnable("fp8", gate_up_E_2I_H, down_E_H_I)
    check_float("fp8", gate_up=gate_up_E_2I_H, down=down_E_H_I)
    check_rank("fp8", 3, gate_up=gate_up_E_2I_H, down=down_E_H_I)
    experts, double, width = gate_up_E_2I_H.shape
    if double % 2 or tuple(down_E_H_I.shape) != (experts, width, double // 2):
        raise KernelRefusal(
            f"fp8: needs gate_up (E, 2I, H) and down (E, H, I), got {tuple(gate_up_E_2I_H.shape)} "
            f"and {tuple(down_E_H_I.shape)}"
        )
    check_card(gate_up_E_2I_H.device)
    gate_up, down = gate_up_E_2I_H.detach(), down_E_H_I.detach()
    return Fp8Experts(
        quantize_rows(gate_up.reshape(-1, gate_up.shape[-1])),
        quantize_rows(down.reshape(-1, down.shape[-1])),
        gate_up.shape[0],
    )


def check_card(device: torch.device) -> None:
    """Refuse a card without 8-bit products."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise KernelRefusal(
            f"fp8: {name} multiplies no 8-bit floats (compute capability 8.9 or later does); "
            "leave out fp8"
        )
