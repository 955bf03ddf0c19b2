"""Attention over a packed tree, behind one function.

``dense``: the whole mask, the reference. ``flex``: torch's FlexAttention with the tree's mask.
``rectangles``: per node one causal block over itself and one dense rectangle with all its
descendants (contiguous in depth-first order), merged by log-sum-exp; nothing outside the tree's
pairs is computed. Its backward treats each rectangle alone, given the merged output and
log-sum-exp, which is what fused kernels take as well (``m2gym.kernels`` has the fast ones).

::

    keys    A A A B B C C          query i, key j:  j <= i < reach[j]
          A ╲ . . . . . .
          A ■ ╲ . . . . .          ╲ causal block of a node
          A ■ ■ ╲ . . . .          ■ below it: the rectangle (descendants x node)
          B ■ ■ ■ ╲ . . .
          B ■ ■ ■ ■ ╲ . .
          C ■ ■ ■ . . ╲ .          C is B's sibling: it does not see B
          C ■ ■ ■ . . ■ ╲
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.forge.layout import Layout

AttentionBackend = Literal["dense", "flex", "rectangles"]


def tree_attention(
    q_H_T_D: torch.Tensor,
    k_K_T_D: torch.Tensor,
    v_K_T_D: torch.Tensor,
    layout: Layout,
    *,
    scale: float | None = None,
    backend: AttentionBackend = "dense",
) -> torch.Tensor:
    """Softmax attention of every token over its ancestors and itself.

    Args:
        q_H_T_D: queries, H heads.
        k_K_T_D: keys, K heads; H is a multiple of K (grouped queries).
        v_K_T_D: values.
        layout: the tree; ``layout.tokens`` is T.
        scale: of the scores, 1/sqrt(D) if not given.

    Returns:
        Output, H x T x D, in the queries' dtype.
    """
    heads, tokens, width = q_H_T_D.shape
    if tokens != layout.tokens or k_K_T_D.shape[1] != tokens or v_K_T_D.shape[1] != tokens:
        raise InputError(
            f"the layout has {layout.tokens} tokens, but queries {tokens}, keys "
            f"{k_K_T_D.shape[1]}, values {v_K_T_D.shape[1]}"
        )
    if heads % k_K_T_D.shape[0]:
        raise InputError(f"{heads} query heads are no multiple of {k_K_T_D.shape[0]} key heads")
    scale = 1 / math.sqrt(width) if scale is None else scale
    if backend == "dense":
        return _dense(q_H_T_D, k_K_T_D, v_K_T_D, layout, scale)
    if backend == "flex":
        return _flex(q_H_T_D, k_K_T_D, v_K_T_D, layout, scale)
    if backend == "rectangles":
        out: torch.Tensor = _Rectangles.apply(q_H_T_D, k_K_T_D, v_K_T_D, layout, scale)  # type: ignore[no-untyped-call]
        return out
    raise UnknownIdError("attention backend", backend, ["dense", "flex", "rectangles"])


def dense_mask(layout: Layout, device: torch.device | str = "cpu") -> torch.Tensor:
    """T x T, true where the row's token may attend to the column's."""
    row_T = torch.arange(layout.tokens, device=device)
    reach_T = torch.as_tensor(layout.reach_T, device=device)
    return (row_T[None, :] <= row_T[:, None]) & (row_T[:, None] < reach_T[None, :])


def _dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
) -> torch.Tensor:
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = (q @ k.transpose(-1, -2)) * scale
    scores = scores.masked_fill(~dense_mask(layout, q.device), -math.inf)
    return torch.softmax(scores, dim=-1, dtype=_accumulator(q.dtype)).to(q.dtype) @ v


def _flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    reach_T = torch.as_tensor(layout.reach_T, device=q.device)

    def allowed(_b: Any, _h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < reach_T[key])

    tokens = layout.tokens
    mask = create_block_mask(allowed, None, None, tokens, tokens, device=str(q.device))
    grouped = q.shape[0] != k.shape[0]
    try:
        out = flex_attention(
            q[None], k[None], v[None], block_mask=mask, scale=scale, enable_gqa=grouped
        )
    except NotImplementedError as error:
        raise InputError(
            f"torch's FlexAttention cannot do this on {q.device}: {error} Use "
            "backend='rectangles', which runs anywhere"
        ) from error
    assert isinstance(out, torch.Tensor)
    return out[0]


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def blocks(layout: Layout) -> list[tuple[int, int, int, int, bool]]:
    """(query start, query end, key start, key end, causal) of every block, node by node.

    >>> blocks(Layout.from_parents([-1, 0, 0], [3, 2, 2]))
    [(0, 3, 0, 3, True), (3, 7, 0, 3, False), (3, 5, 3, 5, True), (5, 7, 5, 7, True)]
    """
    found = []
    for start, end, reach in zip(
        layout.start_N.tolist(), layout.end_N.tolist(), layout.reach_N.tolist(), strict=True
    ):
        found.append((start, end, start, end, True))
        if reach > end:
            found.append((end, reach, start, end, False))
    return found


class _Rectangles(torch.autograd.Function):
    """Blocks of the tree one by one; heads grouped as K x G (key head, queries that share it)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layout: Layout,
        scale: float,
    ) -> torch.Tensor:
        heads, tokens, width = q.shape
        kind = _accumulator(q.dtype)
        grouped = (k.shape[0], heads // k.shape[0], tokens)
        out = q.new_zeros((*grouped, v.shape[-1]), dtype=kind)
        lse = q.new_full(grouped, -math.inf, dtype=kind)
        q_K_G = q.view(*grouped, width)
        for q0, q1, k0, k1, causal in blocks(layout):
            scores = _scores(q_K_G[:, :, q0:q1], k[:, k0:k1], scale, causal, kind)
            block_lse = torch.logsumexp(scores, dim=-1)
            merged = torch.logaddexp(lse[:, :, q0:q1], block_lse)
            weight = torch.exp(scores - merged[..., None])
            out[:, :, q0:q1] *= torch.exp(lse[:, :, q0:q1] - merged)[..., None]
            out[:, :, q0:q1] += weight @ v[:, None, k0:k1].to(kind)
            lse[:, :, q0:q1] = merged
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out.to(q.dtype).view(heads, tokens, v.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        heads, tokens, width = q.shape
        grouped = (k.shape[0], heads // k.shape[0], tokens)
        kind = out.dtype
        d_out = grads[0].to(kind).reshape(out.shape)
        delta = (d_out * out).sum(-1)
        q_K_G = q.view(*grouped, width)
        dq = torch.zeros(q_K_G.shape, dtype=kind, device=q.device)
        dk, dv = torch.zeros_like(k, dtype=kind), torch.zeros_like(v, dtype=kind)
        for q0, q1, k0, k1, causal in blocks(ctx.layout):
            rows = slice(q0, q1)
            scores = _scores(q_K_G[:, :, rows], k[:, k0:k1], ctx.scale, causal, kind)
            weight = torch.exp(scores - lse[:, :, rows, None])
            d_block = d_out[:, :, rows]
            dv[:, k0:k1] += (weight.transpose(-1, -2) @ d_block).sum(1)
            d_weight = d_block @ v[:, None, k0:k1].to(kind).transpose(-1, -2)
            d_scores = weight * (d_weight - delta[:, :, rows, None]) * ctx.scale
            dq[:, :, rows] += d_scores @ k[:, None, k0:k1].to(kind)
            dk[:, k0:k1] += (d_scores.transpose(-1, -2) @ q_K_G[:, :, rows].to(kind)).sum(1)
        return dq.view(q.shape).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _scores(
    q: torch.Tensor, k: torch.Tensor, scale: float, causal: bool, kind: torch.dtype
) -> torch.Tensor:
    scores = (q.to(kind) @ k[:, None].to(kind).transpose(-1, -2)) * scale
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores
