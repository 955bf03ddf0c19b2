# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
"""The router in two launches: scores, top-k and weights; then the sort by expert.

A *plan* lays the (token, choice) slots out as rows sorted by expert, every expert's rows padded
to a multiple of ``align``:

    expert 0          expert 1     expert 2 (empty)   expert 3
    r r r r r 0 0 0 | r r 0 0    |                  | r r r 0
    starts[0]=0       starts[1]=8  starts[2]=12       starts[3]=12 … starts[4]=16   (align 4)

so that a tile of ``align`` rows belongs to one expert, and no product needs a mask. The sort is
a counting sort: stable, without atomics, so equal inputs give equal plans. Nothing is read back
to the host: buffers have the size of the worst case (``capacity``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from m2gym.kernels.support import (
    KernelRefusal,
    check_float,
    check_integers,
    check_rank,
    check_runnable,
    fit,
)


@dataclass(frozen=True)
class Plan:
    """Where every slot's row lies, and whose every tile is.

    Attributes:
        rows_T_K: int32, the row of a slot; -1 where its expert id is outside ``[0, E)``.
        counts_E: int32, slots of an expert.
        starts_E1: int32 (E + 1), first row of an expert; the last is the number of padded rows.
        tile_expert: int32, the expert of every tile of ``align`` rows; valid up to
            ``starts[E] / align``.
        align: rows of a tile.
        capacity: the most padded rows there can be.
    """

    rows_T_K: torch.Tensor
    counts_E: torch.Tensor
    starts_E1: torch.Tensor
    tile_expert: torch.Tensor
    align: int
    capacity: int

    @property
    def experts(self) -> int:
        return self.counts_E.shape[0]


def capacity(slots: int, experts: int, align: int) -> int:
    """The most rows that ``slots`` slots over ``experts`` experts can take when padded.

    >>> capacity(16, 256, 16), capacity(1024, 4, 128)
    (256, 1408)
    """
    hit = min(experts, slots)
    return (slots + hit * (align - 1)) // align * align


@triton.jit
def _route_kernel(
    logits,
    bias,
    weights,
    index,
    histogram,
    tokens,
    E: tl.constexpr,
    EP: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    block = tl.program_id(0)
    cols = tl.arange(0, EP)
    real = cols < E
    line = tl.arange(0, KP)
    counts = tl.zeros([EP], tl.int32)
    for first in range(0, BLOCK, STEP):
        token = block * BLOCK + first + tl.arange(0, STEP)
        live = token < tokens
        x = tl.load(
            logits + token[:, None].to(tl.int64) * E + cols[None, :],
            mask=live[:, None] & real[None, :],
            other=0.0,
        ).to(tl.float32)
        score = 1.0 / (1.0 + tl.exp(-x))
        choice = score
        if HAS_BIAS:
            choice = score + tl.load(bias + cols, mask=real, other=0.0).to(tl.float32)[None, :]
        # torch.topk takes NaN for the largest; the weight stays NaN and shows in the output.
        choice = tl.where(choice != choice, float("inf"), choice)
        choice = tl.where(real[None, :], choice, float("-inf"))
        total = tl.zeros([STEP], tl.float32)
        chosen = tl.zeros([STEP, KP], tl.int32)
        picked = tl.zeros([STEP, KP], tl.float32)
        for k in tl.static_range(K):
            best = tl.argmax(choice, axis=1)
            hit = cols[None, :] == best[:, None]
            weight = tl.sum(tl.where(hit, score, 0.0), axis=1)
            total += weight
            choice = tl.where(hit, float("-inf"), choice)
            chosen = tl.where(line[None, :] == k, best[:, None], chosen)
            picked = tl.where(line[None, :] == k, weight[:, None], picked)
            counts += tl.sum((hit & live[:, None]).to(tl.int32), axis=0)
        at = token[:, None].to(tl.int64) * K + line[None, :]
        mask = live[:, None] & (line < K)[None, :]
        tl.store(index + at, chosen, mask=mask)
        tl.store(weights + at, picked / total[:, None], mask=mask)
    tl.store(histogram + block * EP + cols, counts)


@triton.jit
def _route_backward_kernel(
    logits,
    index,
    weights,
    d_weights,
    d_logits,
    tokens,
    E: tl.constexpr,
    EP: tl.constexpr,
    K: tl.constexpr,
    STEP: tl.constexpr,
):
    token = tl.program_id(0) * STEP + tl.arange(0, STEP)
    live = token < tokens
    cols = tl.arange(0, EP)
    at = token[:, None].to(tl.int64) * E + cols[None, :]
    mask = live[:, None] & (cols < E)[None, :]
    score = 1.0 / (1.0 + tl.exp(-tl.load(logits + at, mask=mask, other=0.0).to(tl.float32)))
    total = tl.zeros([STEP], tl.float32)
    dot = tl.zeros([STEP], tl.float32)
    for k in tl.static_range(K):
        expert = tl.load(index + token.to(tl.int64) * K + k, mask=live, other=0)
        total += tl.sum(tl.where(cols[None, :] == expert[:, None], score, 0.0), axis=1)
        w = tl.load(weights + token.to(tl.int64) * K + k, mask=live, other=0.0)
        dot += w * tl.load(d_weights + token.to(tl.int64) * K + k, mask=live, other=0.0)
    grad = tl.zeros([STEP, EP], tl.float32)
    for k in tl.static_range(K):
        expert = tl.load(index + token.to(tl.int64) * K + k, mask=live, other=0)
        dw = tl.load(d_weights + token.to(tl.int64) * K + k, mask=live, other=0.0)
        hit = cols[None, :] == expert[:, None]
        grad += tl.where(hit, ((dw - dot) / total)[:, None] * score * (1.0 - score), 0.0)
    tl.store(d_logits + at, grad.to(d_logits.dtype.element_ty), mask=mask)


@triton.jit
def _histogram_kernel(
    index, histogram, slots, E: tl.constexpr, EP: tl.constexpr, BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    cols = tl.arange(0, EP)
    counts = tl.zeros([EP], tl.int32)
    for first in range(0, BLOCK, STEP):
        slot = block * BLOCK + first + tl.arange(0, STEP)
        expert = tl.load(index + slot, mask=slot < slots, other=-1).to(tl.int32)
        counts += tl.sum((expert[:, None] == cols[None, :]).to(tl.int32), axis=0)
    tl.store(histogram + block * EP + cols, tl.where(cols < E, counts, 0))


@triton.jit
def _positions_kernel(
    index,
    histogram,
    rows,
    counts_out,
    starts_out,
    tile_expert,
    slots,
    blocks,
    tiles,
    E: tl.constexpr,
    EP: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    block = tl.program_id(0)
    cols = tl.arange(0, EP)
    line = tl.arange(0, STEP)
    before = tl.zeros([EP], tl.int32)
    total = tl.zeros([EP], tl.int32)
    for first in range(0, blocks, STEP):
        b = first + line
        part = tl.load(
            histogram + b[:, None] * EP + cols[None, :], mask=(b < blocks)[:, None], other=0
        )
        total += tl.sum(part, axis=0)
        before += tl.sum(tl.where((b < block)[:, None], part, 0), axis=0)
    padded = (total + ALIGN - 1) // ALIGN * ALIGN
    ends = tl.cumsum(padded, axis=0)
    starts = ends - padded
    if block == 0:
        tl.store(counts_out + cols, total, mask=cols < E)
        tl.store(starts_out + cols, starts, mask=cols < E)
        tl.store(starts_out + E, tl.sum(padded, axis=0))
    for first in range(block * STEP, tiles, blocks * STEP):
        tile = first + line
        expert = tl.sum((ends[None, :] <= (tile * ALIGN)[:, None]).to(tl.int32), axis=1)
        tl.store(tile_expert + tile, expert, mask=tile < tiles)
    base = starts + before
    for first in range(0, BLOCK, STEP):
        slot = block * BLOCK + first + line
        expert = tl.load(index + slot, mask=slot < slots, other=-1).to(tl.int32)
        hit = ((expert[:, None] == cols[None, :]) & (cols < E)[None, :]).to(tl.int32)
        rank = tl.cumsum(hit, axis=0) - 1
        row = tl.sum(hit * (rank + base[None, :]), axis=1)
        kept = (expert >= 0) & (expert < E)
        tl.store(rows + slot, tl.where(kept, row, -1), mask=slot < slots)
        base += tl.sum(hit, axis=0)


def _block(tokens: int) -> int:
    """Tokens of a block: few blocks where there are many tokens, enough where there are few."""
    if tokens <= 1024:
        return 16
    return 64 if tokens <= 16384 else 128


def _positions(
    index_T_K: torch.Tensor, histogram: torch.Tensor, experts: int, align: int, block: int
) -> Plan:
    tokens, top_k = index_T_K.shape
    device = index_T_K.device
    rows = torch.empty(tokens, top_k, dtype=torch.int32, device=device)
    counts = torch.empty(experts, dtype=torch.int32, device=device)
    starts = torch.empty(experts + 1, dtype=torch.int32, device=device)
    most = capacity(tokens * top_k, experts, align)
    tile_expert = torch.empty(max(most // align, 1), dtype=torch.int32, device=device)
    blocks, padded = histogram.shape
    _positions_kernel[(blocks,)](
        index_T_K,
        histogram,
        rows,
        counts,
        starts,
        tile_expert,
        tokens * top_k,
        blocks,
        most // align,
        E=experts,
        EP=padded,
        ALIGN=align,
        BLOCK=block * top_k,
        STEP=fit(32, block * top_k),
        num_warps=8,
    )
    return Plan(rows, counts, starts, tile_expert, align, most)


def _check(tokens: int, experts: int, top_k: int, align: int) -> None:
    if tokens < 1:
        raise KernelRefusal("router: needs at least one token, got none")
    if align < 1 or align & (align - 1):
        raise KernelRefusal(f"router: align must be a power of two, got {align}")
    if not 1 <= experts <= 1024:
        raise KernelRefusal(f"router: takes 1 to 1,024 experts, got {experts}")
    if top_k < 1:
        raise KernelRefusal(f"router: needs at least one choice a token, got {top_k}")


def plan(index_T_K: torch.Tensor, experts: int, align: int) -> Plan:
    """Sort slots by expert: two launches, no host synchronisation.

    Args:
        index_T_K: integer expert ids; an id outside ``[0, experts)`` drops its slot.
        experts: E, from 1 to 1,024.
        align: rows of a tile, a power of two; ``tuning.row_tile`` says which fits a load.

    Raises:
        KernelRefusal: ids that are not (T, K) integers with a token and a choice, more than 1,024
            experts, another ``align``, or a device kernels cannot run on.
    """
    check_rank("router", 2, index=index_T_K)
    check_integers("router", index=index_T_K)
    tokens, top_k = index_T_K.shape
    _check(tokens, experts, top_k, align)
    check_runnable("router", index_T_K)
    index_T_K = index_T_K.contiguous()
    block = _block(tokens)
    blocks, padded = triton.cdiv(tokens, block), max(triton.next_power_of_2(experts), 16)
    histogram = torch.empty(blocks, padded, dtype=torch.int32, device=index_T_K.device)
    _histogram_kernel[(blocks,)](
        index_T_K,
        histogram,
        tokens * top_k,
        E=experts,
        EP=padded,
        BLOCK=block * top_k,
        STEP=fit(32, block * top_k),
        num_warps=8,
    )
    return _positions(index_T_K, histogram, experts, align, block)


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, bias: torch.Tensor | None, top_k: int, align: int
    ) -> Any:
        tokens, experts = logits.shape
        logits = logits.contiguous()
        block = _block(tokens)
        blocks, padded = triton.cdiv(tokens, block), max(triton.next_power_of_2(experts), 16)
        device = logits.device
        weights = torch.empty(tokens, top_k, dtype=torch.float32, device=device)
        index = torch.empty(tokens, top_k, dtype=torch.int32, device=device)
        histogram = torch.empty(blocks, padded, dtype=torch.int32, device=device)
        _route_kernel[(blocks,)](
            logits,
            logits if bias is None else bias.contiguous(),
            weights,
            index,
            histogram,
            tokens,
            E=experts,
            EP=padded,
            K=top_k,
            KP=triton.next_power_of_2(top_k),
            HAS_BIAS=bias is not None,
            BLOCK=block,
            STEP=16,
            num_warps=8,
        )
        laid = _positions(index, histogram, experts, align, block)
        ctx.save_for_backward(logits, index, weights)
        ctx.mark_non_differentiable(
            index, laid.rows_T_K, laid.counts_E, laid.starts_E1, laid.tile_expert
        )
        return weights, index, laid.rows_T_K, laid.counts_E, laid.starts_E1, laid.tile_expert

    @staticmethod
    def backward(ctx: Any, d_weights: torch.Tensor, *_: Any) -> Any:
        logits, index, weights = ctx.saved_tensors
        tokens, experts = logits.shape
        d_logits = torch.empty_like(logits)
        _route_backward_kernel[(triton.cdiv(tokens, 16),)](
            logits,
            index,
            weights,
            d_weights.contiguous(),
            d_logits,
            tokens,
            E=experts,
            EP=max(triton.next_power_of_2(experts), 16),
            K=index.shape[1],
            STEP=16,
            num_warps=8,
        )
        return d_logits, None, None, None


def route(
    logits_T_E: torch.Tensor, bias_E: torch.Tensor | None, top_k: int, *, align: int = 128
) -> tuple[torch.Tensor, torch.Tensor, Plan]:
    """M2's router and the sort by expert: two launches; differentiable in the logits.

    Equal scores go to the lower expert id. A NaN logit is chosen first, as ``torch.topk`` does,
    and makes the token's weights NaN.

    Source: The MiniMax-M2 Series (arXiv 2605.26494), architecture.

    Args:
        logits_T_E: router logits in bf16, fp16 or fp32; computed in fp32 for M2.
        bias_E: the balancing bias of any floating type, added for the choice only; no gradient.
        align: rows of a tile in the plan; ``tuning.row_tile`` says which fits.

    Returns:
        Weights (T, K) fp32 that sum to 1 a token, expert ids (T, K) int32, and the plan.

    Raises:
        KernelRefusal: ``top_k`` outside ``[1, E]``, no tokens, more than 1,024 experts, a bias of
            another shape, or a type or device kernels cannot take.
    """
    check_rank("router", 2, logits=logits_T_E)
    check_float("router", logits=logits_T_E)
    tokens, experts = logits_T_E.shape
    _check(tokens, experts, 1, align)
    check_runnable("router", logits_T_E, *([] if bias_E is None else [bias_E]))
    if bias_E is not None and (tuple(bias_E.shape) != (experts,) or not bias_E.is_floating_point()):
        raise KernelRefusal(
            f"router: the bias must be ({experts},) of floats, got {tuple(bias_E.shape)} of "
            f"{bias_E.dtype}"
        )
    if not 1 <= top_k <= experts:
        raise KernelRefusal(f"router: top_k must be in [1, {experts}], got {top_k}")
    weights, index, rows, counts, starts, tile_expert = _Route.apply(
        logits_T_E, bias_E, top_k, align
    )
    most = capacity(tokens * top_k, experts, align)
    return weights, index, Plan(rows, counts, starts, tile_expert, align, most)
