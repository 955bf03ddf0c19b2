# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Tree attention of many small nodes in three launches: forward, d_query, d_key with d_value.

A query tile packs some tokens with several of the query heads that share a key head, so that a
tile of 128 rows spans few tokens and little is lost at the edges of a node. It walks the key runs
of its path's ancestors, then its own path. A key tile walks the rows of its subtree, which are one
run, once for each query head. No sibling is touched, nothing is added atomically: equal inputs
give equal bits. A new tree brings new tables, not a new compilation.

Where the library did some of a row's rectangles before, its output and log-sum-exp are where the
online softmax starts (``PRIOR``), which merges the two without a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from m2gym.kernels.support import descriptor, precision
from m2gym.kernels.tree_plan import Cuts, Tables

_LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Shape:
    """Rows and keys of a tile, warps and stages of a kernel.

    ``narrow``: keys of a tile at the end of a run, in the forward; 0: as the others.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    narrow: int = 0

    @property
    def short(self) -> int:
        return self.narrow or self.keys


@dataclass(frozen=True)
class Shapes:
    """The three kernels' tiles."""

    forward: Shape
    d_query: Shape
    d_key: Shape

    def cuts(self, group: int) -> Cuts:
        """In tokens, for ``group`` query heads to a key head."""
        return Cuts(
            (
                self.forward.rows // pack(self.forward.rows, group),
                self.forward.keys,
                self.forward.short,
            ),
            (
                self.d_query.rows // pack(self.d_query.rows, group),
                self.d_query.keys,
                self.d_query.keys,
            ),
            self.d_key.keys,
        )


# Measured on an H100; see docs/kernels.md.
HOPPER = Shapes(Shape(128, 128, 8, 2, 64), Shape(64, 64, 4, 2), Shape(32, 64, 4, 3))
_INTERPRETED = Shapes(Shape(16, 32, 4, 1, 16), Shape(16, 16, 4, 1), Shape(16, 16, 4, 1))


def shapes(device: torch.device) -> Shapes:
    return HOPPER if device.type == "cuda" else _INTERPRETED


def pack(rows: int, group: int) -> int:
    """How many heads of a group share a tile: the most that fill 98 % of its rows.

    >>> pack(128, 6), pack(64, 6), pack(128, 8), pack(64, 1), pack(16, 3)
    (6, 3, 8, 1, 1)
    """
    fitting = [p for p in range(1, min(group, rows) + 1) if group % p == 0]
    full = [p for p in fitting if rows // p * p >= 0.98 * rows]
    return max(full) if full else 1


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    MODE: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    if PRECISION == "upcast":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=MODE)


@triton.jit
def _query_tile(
    items, rows_total, N: tl.constexpr, M: tl.constexpr, D: tl.constexpr, PACK: tl.constexpr,
    BM: tl.constexpr,
):  # fmt: skip
    """This program's rows: its item of the tables, which rows live, where q's and lse's lie."""
    PACKS: tl.constexpr = N // PACK
    TOKENS: tl.constexpr = BM // PACK
    item = items + tl.program_id(0) // PACKS * 7
    lead = tl.program_id(0) % PACKS * PACK
    column = lead // (N // M) * D
    first = tl.load(item)
    last = tl.load(item + 1)
    own = tl.load(item + 2)
    block = tl.load(item + 3)
    wholes = tl.load(item + 4) - block
    tail = tl.load(item + 5)
    shorts = tl.load(item + 6) - tail

    row = tl.arange(0, BM)
    token = first + row // PACK
    live = (row < TOKENS * PACK) & (token < last)
    at = (row // PACK * N + row % PACK)[:, None] * D + tl.arange(0, D)[None, :]
    cells = (first.to(tl.int64) * N + lead) * D + at
    where = (lead + row % PACK) * rows_total + token
    return first, last, own, block, wholes, tail, shorts, column, token, live, cells, where


@triton.jit
def _softmax_step(q, k, v, keys, limit, top, total, acc, scale, MASKED: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    zero = tl.zeros([q.shape[0], k.shape[0]], tl.float32)
    s = _dot(q, k.T, zero, PRECISION)
    if MASKED:
        s = tl.where(keys[None, :] < limit[:, None], s, float("-inf"))
    new = tl.maximum(top, tl.max(s, 1) * scale)
    p = tl.exp2(s * scale - new[:, None])
    shrink = tl.exp2(top - new)
    total = total * shrink + tl.sum(p, 1)
    acc = _dot(p.to(v.dtype), v, acc * shrink[:, None], PRECISION)
    return new, total, acc


@triton.jit
def _forward_kernel(
    q, k, v, k_short, v_short, out, lse, items, blocks, tails, rows_total, scale,
    N: tl.constexpr, M: tl.constexpr, D: tl.constexpr, PACK: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BS: tl.constexpr, PRIOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    first, last, own, block, wholes, tail, shorts, column, token, live, cells, where = _query_tile(
        items, rows_total, N, M, D, PACK, BM
    )
    query = tl.load(q + cells, mask=live[:, None], other=0.0)
    if PRIOR:
        top = tl.load(lse + where, mask=live, other=0.0) * 1.4426950408889634
        total = tl.where(top == float("-inf"), 0.0, 1.0)
        acc = tl.load(out + cells, mask=live[:, None], other=0.0).to(tl.float32)
    else:
        top = tl.full([BM], float("-inf"), tl.float32)
        total = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, D], tl.float32)
    span = tl.arange(0, BN)

    own_wholes = tl.maximum(first + 1 - own, 0) // BN
    for b in range(0, wholes + own_wholes):
        listed = tl.load(blocks + block + b, mask=b < wholes, other=0)
        start = tl.where(b < wholes, listed, own + (b - wholes) * BN)
        top, total, acc = _softmax_step(
            query, k.load([start, column]), v.load([start, column]), start + span, token,
            top, total, acc, scale, False, PRECISION,
        )  # fmt: skip
    rest = own + own_wholes * BN
    short = tl.arange(0, BS)
    for b in range(0, shorts + (tl.maximum(last - rest, 0) + BS - 1) // BS):
        listed = tl.load(tails + 2 * (tail + b), mask=b < shorts, other=0)
        end = tl.load(tails + 2 * (tail + b) + 1, mask=b < shorts, other=0)
        start = tl.where(b < shorts, listed, rest + (b - shorts) * BS)
        limit = tl.where(b < shorts, end, token + 1)
        top, total, acc = _softmax_step(
            query, k_short.load([start, column]), v_short.load([start, column]), start + short,
            limit, top, total, acc, scale, True, PRECISION,
        )  # fmt: skip
    tl.store(out + cells, (acc / total[:, None]).to(out.dtype.element_ty), mask=live[:, None])
    tl.store(lse + where, (top + tl.log2(total)) * 0.6931471805599453, mask=live)


@triton.jit
def _d_query_step(q, d, k, v, keys, limit, lse, delta, acc, scale, MASKED: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    zero = tl.zeros([q.shape[0], k.shape[0]], tl.float32)
    p = tl.exp2(_dot(q, k.T, zero, PRECISION) * scale - lse[:, None])
    if MASKED:
        p = tl.where(keys[None, :] < limit[:, None], p, 0.0)
    ds = p * (_dot(d, v.T, zero, PRECISION) - delta[:, None])
    return _dot(ds.to(k.dtype), k, acc, PRECISION)


@triton.jit
def _d_query_kernel(
    q, k, v, out, d_out, lse, delta, d_q, items, blocks, tails, rows_total, scale, natural_scale,
    N: tl.constexpr, M: tl.constexpr, D: tl.constexpr, PACK: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, PRIOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    first, last, own, block, wholes, tail, shorts, column, token, live, cells, where = _query_tile(
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
def _d_key_kernel(
    q, k, v, d_out, lse, delta, d_k, d_v, items, segments, reach, rows_total, scale,
    natural_scale,
    N: tl.constexpr, M: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRIOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = N // M
    item = items + tl.program_id(0) // M * 4
    head = tl.program_id(0) % M
    first = tl.load(item)
    last = tl.load(item + 1)
    key = first + tl.arange(0, BN)
    until = tl.load(reach + key, mask=key < last, other=0)
    k_tile = k.load([first, head * D])
    v_tile = v.load([first, head * D])
    acc_k = tl.zeros([BN, D], tl.float32)
    acc_v = tl.zeros([BN, D], tl.float32)
    zero = tl.zeros([BN, BM], tl.float32)
    for s in range(tl.load(item + 2), tl.load(item + 3)):
        begin = tl.load(segments + 2 * s)
        end = tl.load(segments + 2 * s + 1)
        blocks = (end - begin + BM - 1) // BM
        for i in range(0, blocks * GROUP):
            mine = head * GROUP + i // blocks
            start = begin + i % blocks * BM
            token = start + tl.arange(0, BM)
            query = q.load([start, mine * D])
            d = d_out.load([start, mine * D])
            # The infinite log-sum-exp of a row beyond the run makes its probabilities 0.
            norm = tl.load(lse + mine * rows_total + token, mask=token < end, other=float("inf"))
            inner = tl.load(delta + mine * rows_total + token, mask=token < end, other=0.0)
            logs = _dot(k_tile, query.T, zero, PRECISION) * scale
            p = tl.exp2(logs - norm[None, :] * 1.4426950408889634)
            sees = (key[:, None] <= token[None, :]) & (token[None, :] < until[:, None])
            p = tl.where(sees, p, 0.0)
            acc_v = _dot(p.to(d.dtype), d, acc_v, PRECISION)
            ds = p * (_dot(v_tile, d.T, zero, PRECISION) - inner[None, :])
            acc_k = _dot(ds.to(query.dtype), query, acc_k, PRECISION)
    acc_k = acc_k * natural_scale
    at = (first.to(tl.int64) * M + head) * D
    local = tl.arange(0, BN)[:, None] * (M * D) + tl.arange(0, D)[None, :]
    mask = (key < last)[:, None] & (tl.arange(0, D) < D)[None, :]
    if PRIOR:
        acc_k += tl.load(d_k + at + local, mask=mask, other=0.0).to(tl.float32)
        acc_v += tl.load(d_v + at + local, mask=mask, other=0.0).to(tl.float32)
    tl.store(d_k + at + local, acc_k.to(d_k.dtype.element_ty), mask=mask)
    tl.store(d_v + at + local, acc_v.to(d_v.dtype.element_ty), mask=mask)


def _flat(x: torch.Tensor, keys: int) -> object:
    return descriptor(x.view(x.shape[0], -1), keys, x.shape[2])


def forward(
    q_T_N_D: torch.Tensor, k_T_M_D: torch.Tensor, v_T_M_D: torch.Tensor, out_T_N_D: torch.Tensor,
    lse_N_T: torch.Tensor, tables: Tables, scale: float, *, prior: bool, shape: Shape,
) -> None:  # fmt: skip
    """Write ``out`` and the log-sum-exp of the tables' rows, going on from them when ``prior``."""
    total, heads, width = q_T_N_D.shape
    packed = pack(shape.rows, heads // k_T_M_D.shape[1])
    _forward_kernel[(len(tables.forward) * (heads // packed),)](
        q_T_N_D, _flat(k_T_M_D, shape.keys), _flat(v_T_M_D, shape.keys),
        _flat(k_T_M_D, shape.short), _flat(v_T_M_D, shape.short), out_T_N_D, lse_N_T,
        tables.forward, tables.blocks_forward, tables.tails_forward, total, scale * _LOG2E,
        N=heads, M=k_T_M_D.shape[1], D=width, PACK=packed, BM=shape.rows, BN=shape.keys,
        BS=shape.short, PRIOR=prior, PRECISION=precision(q_T_N_D.dtype), num_warps=shape.warps,
        num_stages=shape.stages,
    )  # fmt: skip


def backward(
    d_T_N_D: torch.Tensor, q_T_N_D: torch.Tensor, k_T_M_D: torch.Tensor, v_T_M_D: torch.Tensor,
    out_T_N_D: torch.Tensor, lse_N_T: torch.Tensor, d_q: torch.Tensor, d_k: torch.Tensor,
    d_v: torch.Tensor, tables: Tables, scale: float, *, prior: bool, shapes: Shapes,
) -> None:  # fmt: skip
    """Write the gradients of the tables' rows, or add to them when ``prior``."""
    total, heads, width = q_T_N_D.shape
    groups = k_T_M_D.shape[1]
    delta = torch.empty_like(lse_N_T)
    shape = shapes.d_query
    packed = pack(shape.rows, heads // groups)
    _d_query_kernel[(len(tables.d_query) * (heads // packed),)](
        q_T_N_D, _flat(k_T_M_D, shape.keys), _flat(v_T_M_D, shape.keys), out_T_N_D, d_T_N_D,
        lse_N_T, delta, d_q, tables.d_query, tables.blocks_d_query, tables.tails_d_query, total,
        scale * _LOG2E, scale, N=heads, M=groups, D=width, PACK=packed, BM=shape.rows,
        BN=shape.keys, PRIOR=prior,
        PRECISION=precision(q_T_N_D.dtype), num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    shape = shapes.d_key
    _d_key_kernel[(len(tables.d_key) * groups,)](
        _flat(q_T_N_D, shape.rows), _flat(k_T_M_D, shape.keys), _flat(v_T_M_D, shape.keys),
        _flat(d_T_N_D, shape.rows), lse_N_T, delta, d_k, d_v, tables.d_key, tables.segments,
        tables.reach, total, scale * _LOG2E, scale,
        N=heads, M=groups, D=width, BM=shape.rows, BN=shape.keys, PRIOR=prior,
        PRECISION=precision(q_T_N_D.dtype), num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
