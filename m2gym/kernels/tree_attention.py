# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
"""Attention over a token tree, exact, from as few full rectangles as possible.

``tree_plan`` cuts the tree into causal squares and dense rectangles. Large ones run on cuDNN (the
library's, by torch), one call each, equal squares that follow each other in one call; all others
together in the launches of ``tree_kernel`` and ``tree_backward``. The parts of a row are merged by
log-sum-exp; the backward gives each part the merged output and log-sum-exp, which makes its share
of the gradient exact. Under the interpreter (CPU) plain torch takes cuDNN's place.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from m2gym.kernels import tree_backward, tree_kernel
from m2gym.kernels.support import KernelRefusal, check_float, check_rank, check_runnable
from m2gym.kernels.tree_plan import Rectangle, TreePlan, plan, rectangles

__all__ = ["rectangles", "tree_attention"]

_KERNEL = "tree_attention"
# cuDNN refuses a single row and is not made for a few.
_LEAST = 64


@triton.jit
def _merge_kernel(
    out,
    lse,
    part,
    part_lse,
    first,
    heads,
    total,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    row = first + i
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = head < heads
    old = tl.load(lse + head.to(tl.int64) * total + row, mask=live, other=0.0)
    new = tl.load(part_lse + i * heads + head, mask=live, other=0.0)
    top = tl.maximum(old, new)
    a, b = tl.exp(old - top), tl.exp(new - top)
    at = head[:, None] * D + tl.arange(0, D)[None, :]
    mask = live[:, None] & (tl.arange(0, D) < D)[None, :]
    x = tl.load(out + row * heads * D + at, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(part + i * heads * D + at, mask=mask, other=0.0).to(tl.float32)
    mixed = (a[:, None] * x + b[:, None] * y) / (a + b)[:, None]
    tl.store(out + row * heads * D + at, mixed.to(out.dtype.element_ty), mask=mask)
    tl.store(lse + head.to(tl.int64) * total + row, top + tl.log(a + b), mask=live)


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


def _heads_first(x: torch.Tensor, copies: int) -> torch.Tensor:
    return x.view(copies, -1, *x.shape[1:]).transpose(1, 2)


def _library_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, copies: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (rows, N, D) and log-sum-exp (rows, N) of ``copies`` equal rectangles."""
    if not q.is_cuda:
        parts = [
            _plain_forward(each[0], each[1], each[2], causal, scale)
            for each in zip(*(x.chunk(copies) for x in (q, k, v)), strict=True)
        ]
        return torch.cat([o for o, _ in parts]), torch.cat([lse.T for _, lse in parts])
    out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *(_heads_first(x, copies) for x in (q, k, v)), None, True, 0.0, causal, False, scale=scale
    )[:2]
    rows, heads, width = q.shape
    lse = lse.view(copies, heads, -1).transpose(1, 2).reshape(rows, heads)
    return out.transpose(1, 2).reshape(rows, heads, width), lse


def _library_backward(
    d: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
    lse_T_N: torch.Tensor, causal: bool, copies: int, scale: float,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    if not q.is_cuda:
        parts = [
            _plain_backward(dd, qq, kk, vv, oo, ll.T, causal, scale)
            for dd, qq, kk, vv, oo, ll in zip(
                *(x.chunk(copies) for x in (d, q, k, v, out, lse_T_N)), strict=True
            )
        ]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))
    seed = torch.zeros((), dtype=torch.int64, device=q.device)
    lse = lse_T_N.view(copies, -1, q.shape[1]).transpose(1, 2).contiguous()[..., None]
    grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *(_heads_first(x, copies) for x in (d, q, k, v, out)), lse, seed, seed, None, None, None,
        q.shape[0] // copies, k.shape[0] // copies, 0.0, causal, scale=scale,
    )  # fmt: skip
    return tuple(g.transpose(1, 2).reshape(x.shape) for g, x in zip(grads, (q, k, v), strict=True))


def _slices(r: Rectangle, copies: int) -> tuple[slice, slice]:
    """The query and key rows of a call; several copies are squares in a row."""
    last = r.first + copies * (r.last - r.first)
    return slice(r.first, last), slice(r.key_first, last if r.causal else r.key_last)


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cut: TreePlan, scale: float
    ) -> torch.Tensor:
        total, heads, width = q.shape
        mixed = bool(cut.calls) and cut.tables is not None
        out = torch.zeros_like(q) if mixed else torch.empty_like(q)
        fill = -math.inf if mixed else 0.0
        lse = torch.full((heads, total), fill, dtype=torch.float32, device=q.device)
        for rectangle, copies in cut.calls:
            rows, keys = _slices(rectangle, copies)
            part, part_lse = _library_forward(
                q[rows], k[keys], v[keys], rectangle.causal, copies, scale
            )
            if rectangle.causal:
                out[rows], lse[:, rows] = part, part_lse.T
                continue
            block = min(16, triton.next_power_of_2(heads))
            _merge_kernel[(len(part), triton.cdiv(heads, block))](
                out, lse, part.contiguous(), part_lse.contiguous(), rows.start, heads, total,
                D=width, BLOCK=block, num_warps=4,
            )  # fmt: skip
        if cut.tables is not None:
            shape = tree_kernel.shapes(q.device).forward
            tree_kernel.forward(q, k, v, out, lse, cut.tables, scale, prior=mixed, shape=shape)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.cut, ctx.scale = cut, scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        cut: TreePlan = ctx.cut
        d_out = d_out.contiguous()
        mixed = bool(cut.calls) and cut.tables is not None
        d_q = torch.zeros_like(q) if mixed else torch.empty_like(q)
        # Several parts add to a key row: their sum is kept in fp32 unless there is one.
        kind = torch.float32 if cut.calls else k.dtype
        make = torch.zeros_like if cut.calls else torch.empty_like
        d_k, d_v = (make(x, dtype=kind) for x in (k, v))
        for rectangle, copies in cut.calls:
            rows, keys = _slices(rectangle, copies)
            grads = _library_backward(
                d_out[rows], q[rows], k[keys], v[keys], out[rows], lse[:, rows].T,
                rectangle.causal, copies, ctx.scale,
            )  # fmt: skip
            if rectangle.causal:  # every row is in one square, and squares come first
                d_q[rows] = grads[0]
            else:
                d_q[rows].add_(grads[0])
            d_k[keys].add_(grads[1])
            d_v[keys].add_(grads[2])
        if cut.tables is not None:
            tree_backward.backward(
                d_out, q, k, v, out, lse, d_q, d_k, d_v, cut.tables, ctx.scale, prior=mixed,
                shapes=tree_kernel.shapes(q.device),
            )  # fmt: skip
        return d_q, d_k.to(k.dtype), d_v.to(v.dtype), None, None


def _nodes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, values))
    except TypeError as error:
        raise KernelRefusal(f"{_KERNEL}: {name} must be integers: {error}") from error


def tree_attention(
    query_T_N_D: torch.Tensor,
    key_T_M_D: torch.Tensor,
    value_T_M_D: torch.Tensor,
    starts: Sequence[int],
    parents: Sequence[int],
    *,
    scale: float | None = None,
    large: int | None = None,
    deterministic: bool | None = None,
) -> torch.Tensor:
    """Attention in which a token sees its ancestors and its own past, differentiable.

    A new tree needs no recompilation, but cuDNN plans each new shape of a large rectangle once.
    The last 16 trees' plans are kept, for the layers of a model.
    Where the kernel does the whole tree, the backward keeps the scores' gradient, 2 bytes a pair
    and query head, of one key head or a few at a time: at most 4 GiB, none where one needs more.

    Args:
        query_T_N_D, key_T_M_D, value_T_M_D: all tokens of the tree, bf16 or fp16 (fp32 under the
            interpreter only); N is a multiple of M, D a power of two from 16 to 128.
        starts, parents: the nodes in preorder, see ``tree_plan.rectangles``; on the host.
            Integers; rows and nodes are counted from 0.
        scale: of the scores; by default D ** -0.5.
        large: rectangles of at least this many pairs get a library call of their own; by default
            those that the library does faster by measured cost (``tree_plan.Costs``).
        deterministic: equal inputs give equal bits, gradients too: everything by the kernel,
            whatever ``large``. By default as ``torch.use_deterministic_algorithms`` says.

    Returns:
        (T, N, D), in the query's type.

    Raises:
        KernelRefusal: nodes out of preorder, or a device, type or shape it cannot take.
    """
    check_runnable(_KERNEL, query_T_N_D, key_T_M_D, value_T_M_D)
    dtype = check_float(_KERNEL, query=query_T_N_D, key=key_T_M_D, value=value_T_M_D)
    check_rank(_KERNEL, 3, query=query_T_N_D, key=key_T_M_D, value=value_T_M_D)
    total, heads, width = query_T_N_D.shape
    rows, groups, depth = key_T_M_D.shape
    if key_T_M_D.shape != value_T_M_D.shape or (
        (rows, depth) != (total, width) or heads < 1 or groups < 1 or heads % groups
    ):
        raise KernelRefusal(
            f"{_KERNEL}: needs query (T, N, D), key and value (T, M, D) with N a multiple of M, "
            f"got {tuple(query_T_N_D.shape)}, {tuple(key_T_M_D.shape)}, "
            f"{tuple(value_T_M_D.shape)}"
        )
    if width & (width - 1) or not 16 <= width <= 128:
        raise KernelRefusal(
            f"{_KERNEL}: the head width must be a power of two from 16 to 128, got {width}"
        )
    if query_T_N_D.is_cuda and dtype == torch.float32:
        raise KernelRefusal(f"{_KERNEL}: on a GPU needs bfloat16 or float16, got float32")
    starts, parents = _nodes("starts", starts), _nodes("parents", parents)
    if starts[-1:] != (total,):
        raise KernelRefusal(
            f"{_KERNEL}: the tree has {starts[-1] if starts else 'no'} rows, the tensors {total}"
        )
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    device = query_T_N_D.device
    cut = plan(
        starts, parents, 2**62 if deterministic else large,
        _LEAST if device.type == "cuda" else 1,
        tree_kernel.shapes(device).cuts(heads // groups), device,
    )  # fmt: skip
    out: torch.Tensor = _TreeAttention.apply(
        query_T_N_D.contiguous(),
        key_T_M_D.contiguous(),
        value_T_M_D.contiguous(),
        cut,
        width**-0.5 if scale is None else scale,
    )
    return out
