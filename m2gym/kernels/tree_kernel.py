# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Tree attention of many small nodes: the forward, and how it and ``tree_backward`` cut tiles.

A query tile packs some tokens with several of the query heads that share a key head, so that a
tile of 128 rows spans few tokens and little is lost at the edges of a node. It walks the key runs
of its path's ancestors, then its own path. No sibling is touched, nothing is added atomically:
equal inputs give equal bits. A new tree brings new tables, not a new compilation.

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
from m2gym.kernels.tuning import tuned

LOG2E = 1.4426950408889634


# Bytes of dS, the scores' gradient, that may be kept for one key head; what several may share.
KEPT = 4 << 30
KEPT_TOGETHER = 2 << 30


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
    """The kernels' tiles. ``product``: of d_query, where dS is kept; its keys are ``d_key``'s."""

    forward: Shape
    d_query: Shape
    d_key: Shape
    product: Shape

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
            (self.d_key.rows, self.d_key.keys),
            (self.product.rows // group, KEPT // (2 * group * self.d_key.keys))
            if group <= self.product.rows
            else (1, 0),
        )


# Measured on an H200 (the forward: on an H100); see docs/kernels.md.
HOPPER = Shapes(
    Shape(128, 128, 8, 2, 64), Shape(64, 64, 4, 2), Shape(64, 64, 4, 2), Shape(128, 64, 8, 3)
)
_INTERPRETED = Shapes(
    Shape(16, 32, 4, 1, 16), Shape(16, 16, 4, 1), Shape(16, 16, 4, 1), Shape(16, 16, 4, 1)
)


def shapes(device: torch.device) -> Shapes:
    """The tiles for a device. An untuned card has Hopper's, which are small enough for any since
    Ampere, and says so once."""
    if device.type != "cuda":
        return _INTERPRETED
    tuned(device)
    return HOPPER


def pack(rows: int, group: int) -> int:
    """How many heads of a group share a tile: the most that fill 98 % of its rows.

    >>> pack(128, 6), pack(64, 6), pack(128, 8), pack(64, 1), pack(16, 3)
    (6, 3, 8, 1, 1)
    """
    fitting = [p for p in range(1, min(group, rows) + 1) if group % p == 0]
    full = [p for p in fitting if rows // p * p >= 0.98 * rows]
    return max(full) if full else 1


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    MODE: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    if PRECISION == "upcast":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=MODE)


@triton.jit
def query_tile(
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
    s = dot(q, k.T, zero, PRECISION)
    if MASKED:
        s = tl.where(keys[None, :] < limit[:, None], s, float("-inf"))
    new = tl.maximum(top, tl.max(s, 1) * scale)
    p = tl.exp2(s * scale - new[:, None])
    shrink = tl.exp2(top - new)
    total = total * shrink + tl.sum(p, 1)
    acc = dot(p.to(v.dtype), v, acc * shrink[:, None], PRECISION)
    return new, total, acc


@triton.jit
def _forward_kernel(
    q, k, v, k_short, v_short, out, lse, items, blocks, tails, rows_total, scale,
    N: tl.constexpr, M: tl.constexpr, D: tl.constexpr, PACK: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BS: tl.constexpr, PRIOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    first, last, own, block, wholes, tail, shorts, column, token, live, cells, where = query_tile(
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


def flat(x: torch.Tensor, keys: int) -> object:
    return descriptor(x.view(x.shape[0], -1), keys, x.shape[2])


def forward(
    q_T_N_D: torch.Tensor, k_T_M_D: torch.Tensor, v_T_M_D: torch.Tensor, out_T_N_D: torch.Tensor,
    lse_N_T: torch.Tensor, tables: Tables, scale: float, *, prior: bool, shape: Shape,
) -> None:  # fmt: skip
    """Write ``out`` and the log-sum-exp of the tables' rows, going on from them when ``prior``."""
    total, heads, width = q_T_N_D.shape
    packed = pack(shape.rows, heads // k_T_M_D.shape[1])
    _forward_kernel[(len(tables.forward) * (heads // packed),)](
        q_T_N_D, flat(k_T_M_D, shape.keys), flat(v_T_M_D, shape.keys),
        flat(k_T_M_D, shape.short), flat(v_T_M_D, shape.short), out_T_N_D, lse_N_T,
        tables.forward, tables.blocks_forward, tables.tails_forward, total, scale * LOG2E,
        N=heads, M=k_T_M_D.shape[1], D=width, PACK=packed, BM=shape.rows, BN=shape.keys,
        BS=shape.short, PRIOR=prior, PRECISION=precision(q_T_N_D.dtype), num_warps=shape.warps,
        num_stages=shape.stages,
    )  # fmt: skip
