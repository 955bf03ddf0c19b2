"""Matrix products in fp32 on a CPU by oneDNN, where that pays.

torch gives such products to MKL, which leaves half of an AMD processor's vector units idle: 2,048 x
128 by 128 x 256 took 1.41 ms there and 0.56 ms by oneDNN (EPYC, one thread, torch 2.13). A call of
oneDNN costs 10 µs more, so small products stay with MKL. Which is chosen depends on sizes and the
processor only, so that a run can be repeated to the bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

WORTH = 2**21
"""Multiplications from which a product goes to oneDNN; ours, measured."""


def linear(x_T_I: torch.Tensor, weight_O_I: torch.Tensor) -> torch.Tensor:
    """`torch.nn.functional.linear` without a bias, with gradients."""
    if not _worth(x_T_I, weight_O_I):
        return F.linear(x_T_I, weight_O_I)
    apply: Any = _Linear.apply
    found: torch.Tensor = apply(x_T_I, weight_O_I)
    return found


def _worth(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        len(x) * weight.numel() >= WORTH
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (x, weight))
        and _at_hand()
    )


@cache
def _at_hand() -> bool:
    onednn: Any = torch.backends.mkldnn
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and bool(onednn.is_available())
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_T_I: torch.Tensor, weight_O_I: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x_T_I, weight_O_I)
        return _product(x_T_I, weight_O_I)

    @staticmethod
    def backward(ctx: Any, grad_T_O: torch.Tensor) -> Any:
        x_T_I, weight_O_I = ctx.saved_tensors
        grad_T_O = grad_T_O.contiguous()
        return (
            _product(grad_T_O, weight_O_I.t()) if ctx.needs_input_grad[0] else None,
            _product(grad_T_O.t(), x_T_I.t()) if ctx.needs_input_grad[1] else None,
        )
