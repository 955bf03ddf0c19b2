# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
"""Token log-probabilities over a large vocabulary, whose logits are never kept.

Rows are taken in chunks. A chunk's logits are fp32 sums of operands of any type (M1's fp32 head,
arXiv 2506.13585); log-probability and entropy are taken from them before anything is rounded, and
the logits' gradient, in the operands' type, goes straight into its two products (``logits``):

    d loss / d z_v = c · (1[v = target] − p_v) + e · p_v · (log p_v + entropy)

where c, the loss's slope in the log-probability, is known as soon as the row's log-probability
is: ``policy_loss`` takes the gradient in the forward and multiplies three times instead of four.
``token_logprobs`` allows any loss afterwards, at the price of computing the logits again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from m2gym.kernels.logits import CISPO, GIVEN, PPO, Head, check_width, logits_pass
from m2gym.kernels.support import KernelRefusal, check_float, check_integers, check_runnable

_KERNEL = "logprobs"
# The project's choice: what a chunk's gradient may take. For M2's head 1,408 rows: the products
# fill Hopper's 132 multiprocessors about once. Sums in fp32 read and write twice as much at every
# chunk, so there the chunks are as large as 1 GB allows: 2,432 rows.
CHUNK_BYTES, EXACT_CHUNK_BYTES = 570_000_000, 975_000_000


@dataclass(frozen=True)
class Cispo:
    """CISPO: −sg(clip(r, 0, 1 + high)) · A · log π, r = π / π_old (arXiv 2605.26494, section 6).

    Attributes:
        high: the upper clip's distance from 1. Undisclosed by the source; 3.0 is the project's.
    """

    high: float = 3.0


@dataclass(frozen=True)
class Ppo:
    """PPO's clipped surrogate: −min(r · A, clip(r, 1 − low, 1 + high) · A) (arXiv 1707.06347).

    Attributes:
        low, high: the clips' distances from 1.
    """

    low: float = 0.2
    high: float = 0.2


@dataclass(frozen=True)
class PolicyLoss:
    """What ``policy_loss`` returns.

    Attributes:
        loss: scalar, differentiable: Σ_t scale_t · (objective_t − entropy_coefficient · H_t).
        logprobs_T, entropy_T: of every position, detached, fp32; 0 at ignored positions.
    """

    loss: torch.Tensor
    logprobs_T: torch.Tensor
    entropy_T: torch.Tensor


@triton.jit
def _scale_kernel(values, factor, size, BLOCK: tl.constexpr):
    scale = tl.load(factor).to(tl.float32)
    # Most losses are taken backward as they are: then nothing is read or written.
    if scale != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(values + at, mask=at < size, other=0.0).to(tl.float32) * scale
        tl.store(values + at, value.to(values.dtype.element_ty), mask=at < size)


def _scale(values: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply in place by a scalar on the device, without reading it on the host."""
    size = values.numel()
    block = 8192
    _scale_kernel[(triton.cdiv(size, block),)](values, factor, size, BLOCK=block, num_warps=8)


def _check(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float,
    ignore: int, chunk: int | None, *rows: torch.Tensor, room: int = EXACT_CHUNK_BYTES,
) -> Head:  # fmt: skip
    check_runnable(_KERNEL, hidden, weight, targets, *rows)
    check_float(_KERNEL, hidden=hidden, weight=weight)
    if (
        hidden.dim() != 2
        or weight.dim() != 2
        or hidden.shape[1] != weight.shape[1]
        or not weight.numel()
    ):
        raise KernelRefusal(
            f"{_KERNEL}: needs hidden (T, H) and weight (V, H), got {tuple(hidden.shape)} and "
            f"{tuple(weight.shape)}"
        )
    tokens = hidden.shape[0]
    for tensor in (targets, *rows):
        if tuple(tensor.shape) != (tokens,):
            raise KernelRefusal(
                f"{_KERNEL}: needs one value for each of {tokens} rows, got {tuple(tensor.shape)}"
            )
    check_integers(_KERNEL, targets=targets)
    if not 0 < temperature < math.inf:
        raise KernelRefusal(f"{_KERNEL}: temperature must be a number above 0, got {temperature}")
    if chunk is not None and chunk < 1:
        raise KernelRefusal(f"{_KERNEL}: chunk must be at least one row, got {chunk}")
    check_width(_KERNEL, hidden)
    row = weight.shape[0] * weight.element_size()
    rows_of_chunk = chunk or max(room // row // 128 * 128, 128)
    return Head(
        hidden.contiguous(), weight.contiguous(), targets.contiguous(), temperature, ignore,
        rows_of_chunk,
    )  # fmt: skip


def _gradients(
    head: Head, outputs: dict[str, torch.Tensor], d_hidden: torch.Tensor | None,
    d_weight: torch.Tensor | None, *, objective: int, scalars: tuple[float, float, float],
    inputs: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    """All chunks: values into ``outputs``, gradients into ``d_hidden`` and onto ``d_weight``."""
    buffer = head.buffer()
    for first, last in head.chunks():
        grad = logits_pass(
            head, first, last, outputs, objective=objective, scalars=scalars, inputs=inputs,
            buffer=buffer,
        )  # fmt: skip
        assert grad is not None
        _accumulate(head, first, last, grad, d_hidden, d_weight)


def _accumulate(
    call: Head, first: int, last: int, grad: torch.Tensor,
    d_hidden: torch.Tensor | None, d_weight: torch.Tensor | None,
) -> None:  # fmt: skip
    if d_hidden is not None:
        torch.mm(grad, call.weight_V_H, out=d_hidden[first:last])
    if d_weight is None:
        return
    part = call.hidden_T_H[first:last]
    if d_weight.device.type != "cuda" and d_weight.dtype != part.dtype:
        grad, part = grad.float(), part.float()
    exact: dict[str, Any] = {}
    if d_weight.dtype != part.dtype:
        exact = {"out_dtype": d_weight.dtype}
    if first == 0:  # what was there is not read
        torch.mm(grad.T, part, out=d_weight, **exact)
    else:
        torch.addmm(d_weight, grad.T, part, out=d_weight, **exact)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, call: Head
    ) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = _outputs(call)
        for first, last in call.chunks():
            logits_pass(call, first, last, outputs)
        ctx.save_for_backward(hidden, weight)
        ctx.call = call
        return outputs["logprobs"], outputs["entropies"]

    @staticmethod
    def backward(ctx: Any, d_logprobs: torch.Tensor, d_entropies: torch.Tensor) -> Any:
        call: Head = ctx.call
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(call.hidden_T_H) if need_hidden else None
        d_weight = _weight_gradient(call) if need_weight else None
        outputs = _outputs(call)
        given = {"slopes": d_logprobs.float().contiguous()}
        given["entropy_slopes"] = d_entropies.float().contiguous()
        _gradients(
            call, outputs, d_hidden, d_weight, objective=GIVEN, scalars=(0.0, 0.0, 0.0),
            inputs=given,
        )  # fmt: skip
        return d_hidden, None if d_weight is None else d_weight.to(call.weight_V_H.dtype), None


def _outputs(call: Head) -> dict[str, torch.Tensor]:
    tokens, device = call.hidden_T_H.shape[0], call.hidden_T_H.device
    return {
        name: torch.zeros(tokens, dtype=torch.float32, device=device)
        for name in ("logprobs", "entropies", "losses")
    }


def _weight_gradient(call: Head, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Room for the head's gradient, which the first chunk writes; zeros where there is none."""
    make = torch.empty if len(call.hidden_T_H) else torch.zeros
    return make(call.weight_V_H.shape, dtype=dtype, device=call.weight_V_H.device)


def token_logprobs(
    hidden_T_H: torch.Tensor,
    weight_V_H: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every target and entropy (nats) of every row, differentiable.

    For old and reference policies call it under ``torch.no_grad``. The backward computes the
    logits again; where the loss is CISPO's or PPO's, ``policy_loss`` does not need to.

    Args:
        hidden_T_H, weight_V_H: bf16, fp16 or fp32, rows of a multiple of 16 bytes; a head tied to
            the embedding is passed as it is. V is not bounded.
        targets_T: integer token ids. One outside ``[0, V)`` that is not ``ignore_index`` gives NaN.
        temperature: logits are divided by it.
        ignore_index: rows with this target give 0 and no gradient.
        chunk: rows at a time; by default as many as fit in ``EXACT_CHUNK_BYTES``.

    Returns:
        Both (T,), fp32.

    Raises:
        KernelRefusal: a device, type or shape the kernel cannot take.
    """
    call = _check(hidden_T_H, weight_V_H, targets_T, temperature, ignore_index, chunk)
    logprobs, entropies = _TokenLogprobs.apply(hidden_T_H, weight_V_H, call)
    return logprobs, entropies


class _PolicyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        call: Head,
        objective: Cispo | Ppo,
        entropy_coefficient: float,
        inputs: dict[str, torch.Tensor],
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(call.hidden_T_H) if need_hidden else None
        d_weight = _weight_gradient(call, dtype) if need_weight else None
        outputs = _outputs(call)
        cispo = isinstance(objective, Cispo)
        low = 0.0 if isinstance(objective, Cispo) else objective.low
        _gradients(
            call,
            outputs,
            d_hidden,
            d_weight,
            objective=CISPO if cispo else PPO,
            scalars=(low, objective.high, entropy_coefficient),
            inputs=inputs,
        )
        ctx.grads = (d_hidden, d_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(outputs["logprobs"], outputs["entropies"])
        return outputs["losses"].sum(), outputs["logprobs"], outputs["entropies"]

    @staticmethod
    def backward(ctx: Any, d_loss: torch.Tensor, *_: Any) -> Any:
        if ctx.grads is None:
            raise KernelRefusal(
                f"{_KERNEL}: policy_loss was taken backward once already and keeps nothing; call "
                "it again, or use token_logprobs"
            )
        d_hidden, d_weight = ctx.grads
        ctx.grads = None
        if d_hidden is not None:
            _scale(d_hidden, d_loss)
        if d_weight is not None:
            _scale(d_weight, d_loss)
            d_weight = d_weight.to(ctx.weight_dtype)
        return d_hidden, d_weight, None, None, None, None, None


def policy_loss(
    hidden_T_H: torch.Tensor,
    weight_V_H: torch.Tensor,
    targets_T: torch.Tensor,
    advantages_T: torch.Tensor,
    old_logprobs_T: torch.Tensor,
    scales_T: torch.Tensor,
    objective: Cispo | Ppo,
    *,
    entropy_coefficient: float = 0.0,
    temperature: float = 1.0,
    ignore_index: int = -100,
    chunk: int | None = None,
    weight_grad_dtype: torch.dtype = torch.float32,
) -> PolicyLoss:
    """The policy loss from hidden states, its gradient taken in the forward.

    Its backward may run once: it scales what the forward found by the upstream gradient.

    Args:
        hidden_T_H, weight_V_H, targets_T, temperature, ignore_index, chunk: as `token_logprobs`
            takes them.
        advantages_T: a position's advantage.
        old_logprobs_T: nats, of the policy that sampled.
        objective: `Cispo` or `Ppo`.
        scales_T: a position's share of the loss, 1 / Σ|o| for CISPO; 0 masks it.
        entropy_coefficient: reward for entropy, in the loss's unit a nat.
        weight_grad_dtype: fp32 (default) sums the chunks of the head's gradient exactly;
            the head's own type halves that buffer and rounds at every chunk.

    Raises:
        KernelRefusal: a device, type or shape the kernel cannot take.
    """
    if not isinstance(objective, Cispo | Ppo):
        raise KernelRefusal(
            f"{_KERNEL}: the objective must be a Cispo or a Ppo, got {objective!r}; for another "
            "loss take token_logprobs"
        )
    inputs = {"advantages": advantages_T, "old": old_logprobs_T, "scales": scales_T}
    call = _check(
        hidden_T_H, weight_V_H, targets_T, temperature, ignore_index, chunk, *inputs.values(),
        room=CHUNK_BYTES if weight_grad_dtype == weight_V_H.dtype else EXACT_CHUNK_BYTES,
    )  # fmt: skip
    if weight_grad_dtype not in (torch.float32, weight_V_H.dtype):
        raise KernelRefusal(
            f"{_KERNEL}: weight_grad_dtype must be float32 or the head's {weight_V_H.dtype}, got "
            f"{weight_grad_dtype}"
        )
    ready = {name: tensor.detach().float().contiguous() for name, tensor in inputs.items()}
    loss, logprobs, entropy = _PolicyLoss.apply(
        hidden_T_H, weight_V_H, call, objective, entropy_coefficient, ready, weight_grad_dtype
    )
    return PolicyLoss(loss, logprobs, entropy)
