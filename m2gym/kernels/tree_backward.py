# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Gradients of ``tree_kernel``'s forward: d_key with d_value by key tile, d_query by query tile.

A key tile walks the rows of its subtree, which are one run, once for each query head; a tile that
many rows read is cut into pieces, whose sums are joined in order. dS, the scores' gradient, is
needed on both sides. Where the kernel does the whole tree and it fits, ``d_key`` keeps it in 16
bits, a key head or a few at a time, and d_query is one product of it; elsewhere d_query takes the
two products before it again. Nothing is added atomically.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from m2gym.kernels import tree_kernel
from m2gym.kernels.support import descriptor, precision
from m2gym.kernels.tree_kernel import LOG2E, Shapes, dot, flat, pack, query_tile
from m2gym.kernels.tree_plan import Tables


@triton.jit
def _d_query_step(q, d, k, v, keys, limit, lse, delta, acc, scale, MASKED: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    zero = tl.zeros([q.shape[0], k.shape[0]], tl.float32)
    p = tl.exp2(dot(q, k.T, zero, PRECISION) * scale - lse[:, None])
    if MASKED:
        p = tl.where(keys[None, :] < limit[:, None], p, 0.0)
    ds = p * (dot(d, v.T, zero, PRECISION) - delta[:, None])
    return dot(ds.to(k.dtype), k, acc, PRECISION)


@triton.jit
def _d_query_kernel(
    q, k, v, out, d_out, lse, delta, d_q, items, blocks, tails, rows_total, scale, natural_scale,
    N: tl.constexpr, M: tl.constexpr, D: tl.constexpr, PACK: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, PRIOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    first, last, own, block, wholes, tail, shorts, column, token, live, cells, where = query_tile(
        items, rows_total, N, M, D, PACK, BM
    )
    query = tl.load(q + cells, mask=live[:, None], other=0.0)
    d = tl.load(d_out + cells, mask=live[:, None], other=0.0)
    norm = tl.load(lse + where, mask=live, other=0.0) * 1.4426950408889634
    mixed = tl.load(out + cells, mask=live[:, None], other=0.0).to(tl.float32)
    inner = tl.sum(mixed * d.to(tl.float32), 1)
    tl.store(delta + where, inner, mask=live)
    acc = tl.zeros([BM, D], tl.float32)
    span = tl.arange(0, BN)

    own_wholes = tl.maximum(first + 1 - own, 0) // BN
    for b in range(0, wholes + own_wholes):
        listed = tl.load(blocks + block + b, mask=b < wholes, other=0)
        start = tl.where(b < wholes, listed, own + (b - wholes) * BN)
        acc = _d_query_step(
            query, d, k.load([start, column]), v.load([start, column]), start + span, token,
            norm, inner, acc, scale, False, PRECISION,
        )  # fmt: skip
    rest = own + own_wholes * BN
    for b in range(0, shorts + (tl.maximum(last - rest, 0) + BN - 1) // BN):
        listed = tl.load(tails + 2 * (tail + b), mask=b < shorts, other=0)
        end = tl.load(tails + 2 * (tail + b) + 1, mask=b < shorts, other=0)
        start = tl.where(b < shorts, listed, rest + (b - shorts) * BN)
        limit = tl.where(b < shorts, end, token + 1)
        acc = _d_query_step(
            query, d, k.load([start, column]), v.load([start, column]), start + span, limit,
            norm, inner, acc, scale, True, PRECISION,
        )  # fmt: skip
    acc = acc * natural_scale
    if PRIOR:
        acc += tl.load(d_q + cells, mask=live[:, None], other=0.0).to(tl.float32)
    tl.store(d_q + cells, acc.to(d_q.dtype.element_ty), mask=live[:, None])


@triton.jit
def _delta_kernel(
    out, d_out, delta, rows_total, N: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)
    live = head < N
    at = (row * N + head[:, None]) * D + tl.arange(0, D)[None, :]
    x = tl.load(out + at, mask=live[:, None], other=0.0).to(tl.float32)
    y = tl.load(d_out + at, mask=live[:, None], other=0.0).to(tl.float32)
    tl.store(delta + head * rows_total + row, tl.sum(x * y, 1), mask=live)


@triton.jit
def _write(
    d_k, d_v, acc_k, acc_v, first, last, head, natural_scale, M: tl.constexpr, D: tl.constexpr,
    BN: tl.constexpr, PRIOR: tl.constexpr,
):  # fmt: skip
    acc_k = acc_k * natural_scale
    at = (first.to(tl.int64) * M + head) * D
    local = tl.arange(0, BN)[:, None] * (M * D) + tl.arange(0, D)[None, :]
    mask = (first + tl.arange(0, BN) < last)[:, None] & (tl.arange(0, D) < D)[None, :]
    if PRIOR:
        acc_k += tl.load(d_k + at + local, mask=mask, other=0.0).to(tl.float32)
        acc_v += tl.load(d_v + at + local, mask=mask, other=0.0).to(tl.float32)
    tl.store(d_k + at + local, acc_k.to(d_k.dtype.element_ty), mask=mask)
    tl.store(d_v + at + local, acc_v.to(d_v.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["head_first"])
def _d_key_kernel(
    q, k, v, d_out, lse, delta, d_k, d_v, scores, parts, items, reach, rows_total, kept, scale,
    natural_scale, head_first,
    N: tl.constexpr, M: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, KEEP: tl.constexpr, PRIOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = N // M
    item = items + tl.program_id(0) // HEADS * 6
    turn = tl.program_id(0) % HEADS
    head = head_first + turn
    first = tl.load(item)
    last = tl.load(item + 1)
    begin = tl.load(item + 2)
    end = tl.load(item + 3)
    part = tl.load(item + 4)
    base = tl.load(item + 5) + turn * kept
    key = first + tl.arange(0, BN)
    until = tl.load(reach + key, mask=key < last, other=0)
    k_tile = k.load([first, head * D])
    v_tile = v.load([first, head * D])
    acc_k = tl.zeros([BN, D], tl.float32)
    acc_v = tl.zeros([BN, D], tl.float32)
    zero = tl.zeros([BN, BM], tl.float32)
    blocks = (end - begin + BM - 1) // BM
    for i in range(0, blocks * GROUP):
        local = i // blocks
        mine = head * GROUP + local
        start = begin + i % blocks * BM
        token = start + tl.arange(0, BM)
        query = q.load([start, mine * D])
        d = d_out.load([start, mine * D])
        # The infinite log-sum-exp of a row beyond the run makes its probabilities 0.
        norm = tl.load(lse + mine * rows_total + token, mask=token < end, other=float("inf"))
        inner = tl.load(delta + mine * rows_total + token, mask=token < end, other=0.0)
        logs = dot(k_tile, query.T, zero, PRECISION) * scale
        p = tl.exp2(logs - norm[None, :] * 1.4426950408889634)
        sees = (key[:, None] <= token[None, :]) & (token[None, :] < until[:, None])
        p = tl.where(sees, p, 0.0)
        acc_v = dot(p.to(d.dtype), d, acc_v, PRECISION)
        ds = (p * (dot(v_tile, d.T, zero, PRECISION) - inner[None, :])).to(query.dtype)
        acc_k = dot(ds, query, acc_k, PRECISION)
        if KEEP:
            scores.store([base + i % blocks * BM, local * BN], ds.T)
    if part >= 0:
        cell = tl.arange(0, BN)[:, None] * D + tl.arange(0, D)[None, :]
        at = parts + (part.to(tl.int64) * M + head) * (2 * BN * D)
        tl.store(at + cell, acc_k)
        tl.store(at + BN * D + cell, acc_v)
    else:
        _write(d_k, d_v, acc_k, acc_v, first, last, head, natural_scale, M, D, BN, PRIOR)


@triton.jit
def _join_kernel(
    parts, d_k, d_v, joins, natural_scale, M: tl.constexpr, D: tl.constexpr, BN: tl.constexpr,
    PRIOR: tl.constexpr,
):  # fmt: skip
    join = joins + tl.program_id(0) // M * 4
    head = tl.program_id(0) % M
    first = tl.load(join)
    last = tl.load(join + 1)
    cell = tl.arange(0, BN)[:, None] * D + tl.arange(0, D)[None, :]
    acc_k = tl.zeros([BN, D], tl.float32)
    acc_v = tl.zeros([BN, D], tl.float32)
    for part in range(tl.load(join + 2), tl.load(join + 3)):
        at = parts + (head.to(tl.int64) + part * M) * (2 * BN * D)
        acc_k += tl.load(at + cell)
        acc_v += tl.load(at + BN * D + cell)
    _write(d_k, d_v, acc_k, acc_v, first, last, head, natural_scale, M, D, BN, PRIOR)


@triton.jit(do_not_specialize=["head_first"])
def _product_kernel(
    scores, k, d_q, items, blocks, tails, bases, kept, natural_scale, head_first,
    N: tl.constexpr, M: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = N // M
    TOKENS: tl.constexpr = BM // GROUP
    item = items + tl.program_id(0) // HEADS * 7
    turn = tl.program_id(0) % HEADS
    head = head_first + turn
    first = tl.load(item)
    last = tl.load(item + 1)
    own = tl.load(item + 2)
    block = tl.load(item + 3)
    wholes = tl.load(item + 4) - block
    tail = tl.load(item + 5)
    above = wholes + tl.load(item + 6) - tail
    row = tl.arange(0, BM)
    token = first + row // GROUP
    live = (row < TOKENS * GROUP) & (token < last)
    acc = tl.zeros([BM, D], tl.float32)
    lead = turn * kept + first

    whole = (first - own) // BN + 1
    for b in range(0, above + whole):
        listed = tl.load(blocks + block + b, mask=b < wholes, other=0)
        short = tl.load(tails + 2 * (tail + b - wholes), mask=(b >= wholes) & (b < above), other=0)
        mine = own + (b - above) * BN
        start = tl.where(b < wholes, listed, tl.where(b < above, short, mine))
        at = (lead + tl.load(bases + start)) * GROUP
        acc = dot(scores.load([at, 0]), k.load([start, head * D]), acc, PRECISION)
    for start in range(own + whole * BN, last, BN):
        at = (lead + tl.load(bases + start)) * GROUP
        ds = tl.where((token >= start)[:, None], scores.load([at, 0]), 0.0)
        acc = dot(ds.to(k.dtype), k.load([start, head * D]), acc, PRECISION)
    cells = (row // GROUP * N + row % GROUP)[:, None] * D + tl.arange(0, D)[None, :]
    at_out = d_q + (first.to(tl.int64) * N + head * GROUP) * D + cells
    tl.store(at_out, (acc * natural_scale).to(d_q.dtype.element_ty), mask=live[:, None])


def _together(tables: Tables, groups: int, row_bytes: int) -> int:
    """How many key heads a launch does: all, or as many as may keep dS at once."""
    fitting = [
        n
        for n in range(1, groups + 1)
        if groups % n == 0 and n * tables.kept * row_bytes <= tree_kernel.KEPT_TOGETHER
    ]
    return max(fitting, default=1)


def backward(
    d_T_N_D: torch.Tensor, q_T_N_D: torch.Tensor, k_T_M_D: torch.Tensor, v_T_M_D: torch.Tensor,
    out_T_N_D: torch.Tensor, lse_N_T: torch.Tensor, d_q: torch.Tensor, d_k: torch.Tensor,
    d_v: torch.Tensor, tables: Tables, scale: float, *, prior: bool, shapes: Shapes,
) -> None:  # fmt: skip
    """Write the gradients of the tables' rows, or add to them when ``prior``."""
    total, heads, width = q_T_N_D.shape
    groups = k_T_M_D.shape[1]
    group = heads // groups
    mode = precision(q_T_N_D.dtype)
    delta = torch.empty_like(lse_N_T)
    shape = shapes.d_key
    parts = lse_N_T.new_empty(max(tables.parts, 1) * groups * 2 * shape.keys * width)
    together = _together(tables, groups, group * shape.keys * q_T_N_D.element_size())
    scores = q_T_N_D.new_empty(together * tables.kept, group * shape.keys)
    place = descriptor(scores, shape.rows, shape.keys) if tables.kept else flat(q_T_N_D, shape.rows)

    def d_key(head: int) -> None:
        _d_key_kernel[(len(tables.d_key) * together,)](
            flat(q_T_N_D, shape.rows), flat(k_T_M_D, shape.keys), flat(v_T_M_D, shape.keys),
            flat(d_T_N_D, shape.rows), lse_N_T, delta, d_k, d_v,
            place, parts, tables.d_key, tables.reach, total,
            tables.kept, scale * LOG2E, scale, head, N=heads, M=groups, HEADS=together, D=width,
            BM=shape.rows, BN=shape.keys, KEEP=tables.kept > 0, PRIOR=prior, PRECISION=mode,
            num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip

    if tables.kept:
        _delta_kernel[(total,)](
            out_T_N_D, d_T_N_D, delta, total, N=heads, D=width,
            BLOCK=triton.next_power_of_2(heads), num_warps=4,
        )  # fmt: skip
        tile = shapes.product
        for head in range(0, groups, together):
            d_key(head)
            _product_kernel[(len(tables.d_query) * together,)](
                descriptor(scores.view(-1, shape.keys), tile.rows, shape.keys),
                flat(k_T_M_D, shape.keys), d_q, tables.d_query, tables.blocks_d_query,
                tables.tails_d_query, tables.bases, tables.kept, scale, head, N=heads, M=groups,
                HEADS=together, D=width, BM=tile.rows, BN=shape.keys, PRECISION=mode,
                num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    else:
        tile = shapes.d_query
        packed = pack(tile.rows, group)
        _d_query_kernel[(len(tables.d_query) * (heads // packed),)](
            q_T_N_D, flat(k_T_M_D, tile.keys), flat(v_T_M_D, tile.keys), out_T_N_D, d_T_N_D,
            lse_N_T, delta, d_q, tables.d_query, tables.blocks_d_query, tables.tails_d_query, total,
            scale * LOG2E, scale, N=heads, M=groups, D=width, PACK=packed, BM=tile.rows,
            BN=tile.keys, PRIOR=prior, PRECISION=mode, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        d_key(0)
    if tables.parts:
        _join_kernel[(len(tables.joins) * groups,)](
            parts, d_k, d_v, tables.joins, scale, M=groups, D=width, BN=shape.keys, PRIOR=prior,
            num_warps=4,
        )  # fmt: skip
