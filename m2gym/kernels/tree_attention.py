# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
"""Attention over a token tree, exact, from as few full rectangles as possible.

Nodes lie in preorder, so a node's first child follows it and every subtree is one run of rows.
Chains of first children are *paths*. A path attends to itself causally, one square; the rows
that branch off at a node attend to the path up to that node, one dense rectangle:

    rows          0   A   B   C   D        A's children: B, D (first child B);  B's child: C
    squares       [A  B   C] [D]           paths A-B-C and D
    rectangles    D x A                    nothing is computed twice or masked away

Every row is in one square and in one rectangle for each path above its own. Their results are
merged by log-sum-exp; the backward gives each rectangle the merged output and log-sum-exp, which
makes its part of the gradient exact. Put the heaviest child first: then there are the fewest
levels.

Large rectangles run on cuDNN, one call each; small ones of one level run together in one
variable-length FlashAttention call, so that hundreds of small nodes cost a handful of launches.
The libraries are torch's own. Under the interpreter (CPU) plain torch takes their place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import triton
import triton.language as tl

from m2gym.kernels.support import KernelRefusal, check_float, check_runnable

_KERNEL = "tree_attention"
# Query rows times key rows from which a call of its own beats a place in the shared call
# (H100; see docs/kernels.md).
LARGE = 2**19


@dataclass(frozen=True)
class Rectangle:
    """Query rows [first, last) on key rows [key_first, key_last).

    ``level`` counts the paths above: rectangles of one level share no query row.
    """

    first: int
    last: int
    key_first: int
    key_last: int
    causal: bool
    level: int

    @property
    def sides(self) -> tuple[int, int]:
        return self.last - self.first, self.key_last - self.key_first

    @property
    def area(self) -> int:
        return self.sides[0] * self.sides[1]


def rectangles(starts: Sequence[int], parents: Sequence[int]) -> list[Rectangle]:
    """The squares and rectangles of a tree (or a forest) in preorder.

    >>> [(r.first, r.last, r.key_first, r.key_last) for r in rectangles([0, 4, 6, 9], [-1, 0, 0])]
    [(0, 6, 0, 6), (6, 9, 6, 9), (6, 9, 0, 4)]

    Args:
        starts: first row of every node, then the number of rows.
        parents: every node's parent, -1 for a root.

    Raises:
        KernelRefusal: the nodes are not in preorder, or a node is empty.
    """
    count = len(parents)
    if len(starts) != count + 1 or any(a >= b for a, b in pairwise(starts)):
        raise KernelRefusal(
            f"{_KERNEL}: starts must rise and hold one more entry than parents, got "
            f"{len(starts)} for {count} nodes"
        )
    head, level, after = list(range(count)), [0] * count, list(range(1, count + 1))
    above: list[int] = []
    for node, parent in enumerate(parents):
        while above and above[-1] != parent:
            above.pop()
        if parent >= 0 and not above:
            raise KernelRefusal(
                f"{_KERNEL}: nodes must be in preorder (a node, then each child's whole subtree); "
                f"node {node} does not lie under its parent {parent}"
            )
        above.append(node)
        if parent >= 0:
            first_child = parent == node - 1
            head[node] = head[parent] if first_child else node
            level[node] = level[parent] if first_child else level[parent] + 1
    for node in range(count - 1, -1, -1):
        if parents[node] >= 0:
            after[parents[node]] = max(after[parents[node]], after[node])
    squares: list[Rectangle] = []
    dense: list[Rectangle] = []
    seen: set[int] = set()
    for node, parent in enumerate(parents):
        if head[node] != node:
            continue
        tail = node
        while tail + 1 < count and head[tail + 1] == node:
            tail += 1
        first, last = starts[node], starts[tail + 1]
        squares.append(Rectangle(first, last, first, last, True, level[node]))
        if parent >= 0 and parent not in seen:
            seen.add(parent)
            dense.append(
                Rectangle(
                    first, starts[after[parent]], starts[head[parent]], starts[parent + 1], False,
                    level[parent],
                )
            )  # fmt: skip
    return squares + sorted(dense, key=lambda r: r.level)


@triton.jit
def _merge_kernel(
    out,
    lse,
    part,
    part_lse,
    rows,
    heads,
    total,
    part_total,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + i).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = head < heads
    old = tl.load(lse + head.to(tl.int64) * total + row, mask=live, other=0.0)
    new = tl.load(part_lse + head.to(tl.int64) * part_total + i, mask=live, other=0.0)
    top = tl.maximum(old, new)
    a, b = tl.exp(old - top), tl.exp(new - top)
    at = head[:, None] * D + tl.arange(0, D)[None, :]
    mask = live[:, None] & (tl.arange(0, D) < D)[None, :]
    x = tl.load(out + row * heads * D + at, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(part + i * heads * D + at, mask=mask, other=0.0).to(tl.float32)
    mixed = (a[:, None] * x + b[:, None] * y) / (a + b)[:, None]
    tl.store(out + row * heads * D + at, mixed.to(out.dtype.element_ty), mask=mask)
    tl.store(lse + head.to(tl.int64) * total + row, top + tl.log(a + b), mask=live)


@triton.jit
def _add_rows_kernel(into, part, rows, width, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + i).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    old = tl.load(into + row * width + cols, mask=mask, other=0.0).to(tl.float32)
    new = old + tl.load(part + i * width + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(into + row * width + cols, new.to(into.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class _Batch:
    """Rectangles done in one call: row indices and, for several, their boundaries."""

    causal: bool
    queries: torch.Tensor
    keys: torch.Tensor
    query_ends: torch.Tensor | None
    key_ends: torch.Tensor | None
    longest: tuple[int, int]
    single: Rectangle | None
    span: tuple[int, int] | None

    def take(self, tensor: torch.Tensor, keys: bool = False) -> torch.Tensor:
        """The call's rows of ``tensor``: a view where they lie together."""
        if keys and self.single is not None:
            return tensor[self.single.key_first : self.single.key_last]
        if self.causal or not keys:
            return tensor[self.queries] if self.span is None else tensor[slice(*self.span)]
        return tensor[self.keys]

    def put(self, into: torch.Tensor, part: torch.Tensor) -> None:
        """Write the call's query rows."""
        if self.span is None:
            into[self.queries] = part.to(into.dtype)
        else:
            into[slice(*self.span)] = part

    def add(self, into: torch.Tensor, part: torch.Tensor, keys: bool = False) -> None:
        direct = self.span is not None and (self.causal or not keys)
        if direct or (keys and self.single is not None):
            self.take(into, keys).add_(part)
        elif keys:
            # Key rows can repeat: the prefixes of a path overlap.
            into.index_add_(0, self.keys, part.to(into.dtype))
        else:
            width = part.shape[1] * part.shape[2]
            _add_rows_kernel[(len(self.queries),)](
                into, part.contiguous(), self.queries, width, BLOCK=triton.next_power_of_2(width)
            )


def _batch(group: list[Rectangle], device: torch.device, alone: bool = False) -> _Batch:
    def index(pairs: list[tuple[int, int]]) -> torch.Tensor:
        return torch.cat([torch.arange(a, b, dtype=torch.int64) for a, b in pairs]).to(device)

    def ends(pairs: list[tuple[int, int]]) -> torch.Tensor:
        sizes = [0, *accumulate(b - a for a, b in pairs)]
        return torch.tensor(sizes, dtype=torch.int32, device=device)

    queries = [(r.first, r.last) for r in group]
    keys = [(r.key_first, r.key_last) for r in group]
    single = group[0] if len(group) == 1 else None
    together = all(a.last == b.first for a, b in pairwise(group))
    return _Batch(
        group[0].causal,
        index(queries),
        index(keys),
        None if alone else ends(queries),
        None if alone else ends(keys),
        (max(b - a for a, b in queries), max(b - a for a, b in keys)),
        single,
        (group[0].first, group[-1].last) if together else None,
    )


def batches(
    starts: Sequence[int], parents: Sequence[int], device: torch.device, large: int = LARGE
) -> list[_Batch]:
    """The calls of a tree: large rectangles alone, the small ones of a level together."""
    found = rectangles(starts, parents)
    calls: list[_Batch] = []
    # cuDNN refuses a single row and is not made for a few.
    least = 64 if device.type == "cuda" else 1
    for causal in (True, False):
        mine = [r for r in found if r.causal is causal]
        for level in [None] if causal else sorted({r.level for r in mine}):
            here = mine if level is None else [r for r in mine if r.level == level]
            here.sort(key=lambda r: r.first)
            alone = [r for r in here if r.area >= large and min(r.sides) >= least]
            small = [r for r in here if r not in alone]
            calls += [_batch([r], device, alone=True) for r in alone]
            if small:
                calls.append(_batch(small, device))
    return calls


def _plain_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    group = q.shape[1] // k.shape[1]
    scores = torch.einsum("qnd,knd->nqk", q.float(), k.float().repeat_interleave(group, 1)) * scale
    if causal:
        sees = torch.ones(q.shape[0], k.shape[0], device=q.device).tril().bool()
        scores = scores.masked_fill(~sees, -math.inf)
    lse = torch.logsumexp(scores, dim=-1)
    out = torch.einsum(
        "nqk,knd->qnd", torch.exp(scores - lse[..., None]), v.float().repeat_interleave(group, 1)
    )
    return out.to(q.dtype), lse


def _plain_backward(
    d: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
    lse: torch.Tensor, causal: bool, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    heads = k.shape[1]
    group = q.shape[1] // heads
    d, q, out = d.float(), q.float(), out.float()
    wide_k, wide_v = (x.float().repeat_interleave(group, 1) for x in (k, v))
    p = torch.exp(torch.einsum("qnd,knd->nqk", q, wide_k) * scale - lse[..., None])
    if causal:
        p = p.tril()
    delta = (d * out).sum(-1).T[..., None]
    ds = p * (torch.einsum("qnd,knd->nqk", d, wide_v) - delta) * scale
    d_k, d_v = torch.einsum("nqk,qnd->knd", ds, q), torch.einsum("nqk,qnd->knd", p, d)
    fold = (k.shape[0], heads, group, k.shape[2])
    return (
        torch.einsum("nqk,knd->qnd", ds, wide_k),
        d_k.view(fold).sum(2),
        d_v.view(fold).sum(2),
    )


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1)[None]


def _forward(
    batch: _Batch, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (rows, N, D) and log-sum-exp (N, rows) of one call."""
    if not q.is_cuda:
        if batch.query_ends is None or batch.key_ends is None:
            return _plain_forward(q, k, v, batch.causal, scale)
        edges = (batch.query_ends[1:-1].tolist(), batch.key_ends[1:-1].tolist())
        parts = [
            _plain_forward(*each, batch.causal, scale)
            for each in zip(
                q.tensor_split(edges[0]), k.tensor_split(edges[1]), v.tensor_split(edges[1]),
                strict=True,
            )
        ]  # fmt: skip
        return torch.cat([o for o, _ in parts]), torch.cat([lse for _, lse in parts], dim=1)
    if batch.query_ends is None:
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(
            _heads_first(q), _heads_first(k), _heads_first(v), None, True, 0.0, batch.causal,
            False, scale=scale,
        )[:2]  # fmt: skip
        return out[0].transpose(0, 1).contiguous(), lse.view(q.shape[1], q.shape[0])
    out, lse = torch.ops.aten._flash_attention_forward(
        q, k, v, batch.query_ends, batch.key_ends, *batch.longest, 0.0, batch.causal, False,
        scale=scale,
    )[:2]  # fmt: skip
    return out, lse.reshape(q.shape[1], q.shape[0])


def _backward(
    batch: _Batch, d: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    out: torch.Tensor, lse: torch.Tensor, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    if not q.is_cuda:
        if batch.query_ends is None or batch.key_ends is None:
            return _plain_backward(d, q, k, v, out, lse, batch.causal, scale)
        edges = (batch.query_ends[1:-1].tolist(), batch.key_ends[1:-1].tolist())
        parts = [
            _plain_backward(dd, qq, kk, vv, oo, ll, batch.causal, scale)
            for dd, qq, kk, vv, oo, ll in zip(
                d.tensor_split(edges[0]), q.tensor_split(edges[0]), k.tensor_split(edges[1]),
                v.tensor_split(edges[1]), out.tensor_split(edges[0]),
                lse.tensor_split(edges[0], dim=1), strict=True,
            )
        ]  # fmt: skip
        d_q, d_k, d_v = (torch.cat(each) for each in zip(*parts, strict=True))
        return d_q, d_k, d_v
    lse = lse.contiguous()
    if batch.query_ends is None:
        seed = torch.zeros((), dtype=torch.int64, device=q.device)
        grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            _heads_first(d), _heads_first(q), _heads_first(k), _heads_first(v),
            _heads_first(out), lse[None, :, :, None], seed, seed, None, None, None,
            *batch.longest, 0.0, batch.causal, scale=scale,
        )  # fmt: skip
        d_q, d_k, d_v = (g[0].transpose(0, 1) for g in grads)
        return d_q, d_k, d_v
    seed = torch.zeros(2, dtype=torch.uint64, device=q.device)
    d_q, d_k, d_v = torch.ops.aten._flash_attention_backward(
        d.contiguous(), q, k, v, out, lse, batch.query_ends, batch.key_ends, *batch.longest, 0.0,
        batch.causal, seed, seed[:1], scale=scale,
    )  # fmt: skip
    return d_q, d_k, d_v


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, calls: list[_Batch],
        scale: float,
    ) -> torch.Tensor:  # fmt: skip
        total, heads, width = q.shape
        out = torch.empty_like(q)
        lse = torch.empty(heads, total, dtype=torch.float32, device=q.device)
        for batch in calls:
            part, part_lse = _forward(
                batch, batch.take(q), batch.take(k, True), batch.take(v, True), scale
            )
            if batch.causal:
                batch.put(out, part)
                batch.put(lse.T, part_lse.T)
                continue
            rows = len(batch.queries)
            block = min(16, triton.next_power_of_2(heads))
            _merge_kernel[(rows, triton.cdiv(heads, block))](
                out,
                lse,
                part.contiguous(),
                part_lse.contiguous(),
                batch.queries,
                heads,
                total,
                rows,
                D=width,
                BLOCK=block,
                num_warps=4,
            )
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.calls, ctx.scale = calls, scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_q = torch.empty_like(q)
        d_k, d_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for batch in ctx.calls:
            part_lse = batch.take(lse.T).T
            grads = _backward(
                batch,
                batch.take(d_out),
                batch.take(q),
                batch.take(k, True),
                batch.take(v, True),
                batch.take(out),
                part_lse,
                ctx.scale,
            )
            if batch.causal:  # every row is in one square, and squares come first
                batch.put(d_q, grads[0])
            else:
                batch.add(d_q, grads[0])
            batch.add(d_k, grads[1], keys=True)
            batch.add(d_v, grads[2], keys=True)
        return d_q, d_k.to(k.dtype), d_v.to(v.dtype), None, None


def tree_attention(
    query_T_N_D: torch.Tensor,
    key_T_M_D: torch.Tensor,
    value_T_M_D: torch.Tensor,
    starts: Sequence[int],
    parents: Sequence[int],
    *,
    scale: float | None = None,
    large: int = LARGE,
) -> torch.Tensor:
    """Attention in which a token sees its ancestors and its own past, differentiable.

    A new tree needs no recompilation, but cuDNN plans each new shape of a large rectangle once.

    Args:
        query_T_N_D, key_T_M_D, value_T_M_D: all tokens of the tree; N is a multiple of M.
        starts, parents: the nodes in preorder, see ``rectangles``; on the host.
        scale: of the scores; by default D ** -0.5.
        large: rectangles of at least this area get a call of their own.

    Raises:
        KernelRefusal: nodes out of preorder, or a device, type or shape it cannot take.
    """
    check_runnable(_KERNEL, query_T_N_D, key_T_M_D, value_T_M_D)
    dtype = check_float(_KERNEL, query=query_T_N_D, key=key_T_M_D, value=value_T_M_D)
    total, heads, width = query_T_N_D.shape
    if key_T_M_D.shape != value_T_M_D.shape or (
        (key_T_M_D.shape[0], key_T_M_D.shape[2]) != (total, width) or heads % key_T_M_D.shape[1]
    ):
        raise KernelRefusal(
            f"{_KERNEL}: needs query (T, N, D), key and value (T, M, D) with N a multiple of M, "
            f"got {tuple(query_T_N_D.shape)}, {tuple(key_T_M_D.shape)}, "
            f"{tuple(value_T_M_D.shape)}"
        )
    if width & (width - 1) or width > 128:
        raise KernelRefusal(
            f"{_KERNEL}: the head width must be a power of two up to 128, got {width}"
        )
    if query_T_N_D.is_cuda and dtype == torch.float32:
        raise KernelRefusal(f"{_KERNEL}: on a GPU needs bfloat16 or float16, got float32")
    if starts[-1] != total:
        raise KernelRefusal(f"{_KERNEL}: the tree has {starts[-1]} rows, the tensors {total}")
    calls = batches(starts, parents, query_T_N_D.device, large)
    out: torch.Tensor = _TreeAttention.apply(
        query_T_N_D.contiguous(),
        key_T_M_D.contiguous(),
        value_T_M_D.contiguous(),
        calls,
        width**-0.5 if scale is None else scale,
    )
    return out
