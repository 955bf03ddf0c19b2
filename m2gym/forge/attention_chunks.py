"""Attention over a packed tree in few masked products: for many small nodes on a CPU.

`m2gym.forge.attention`'s rectangles compute no pair twice, but cost some ten calls a node. Here the
row is cut into chunks of at most ``LIMIT`` queries, each with its ancestors before it and one mask;
what is masked away inside a chunk is cheaper than the calls.

::

    root A ─┬─ B ─┬─ D        chunks:  queries A          keys A
            │     └─ E                 queries B D E      keys A B D E, masked
            └─ C                       queries C          keys A C
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from m2gym.core.errors import InputError
from m2gym.forge.layout import Layout

LIMIT = 512
"""Queries of a chunk; the project's choice."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Queries ``first`` to ``last`` of the row, ranges of keys, and who sees what (Q x S)."""

    first: int
    last: int
    keys: tuple[tuple[int, int], ...]
    mask_Q_S: torch.Tensor


def chunks(layout: Layout, limit: int = LIMIT) -> list[Chunk]:
    """The chunks of a tree, in the order of the row.

    >>> layout = Layout.from_parents([-1, 0, 1, 1, 0], [3, 2, 3, 1, 2])
    >>> [(c.first, c.last, c.keys) for c in chunks(layout, 6)]
    [(0, 3, ((0, 3),)), (3, 9, ((0, 3), (3, 9))), (9, 11, ((0, 3), (9, 11)))]
    """
    if limit < 1:
        raise InputError(f"limit is at least 1 query, got {limit}")
    start_N, end_N, reach_N = layout.start_N, layout.end_N, layout.reach_N
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(layout.parent_N.tolist()):
        children.setdefault(parent, []).append(node)
    reach_T = np.asarray(layout.reach_T)
    found: list[Chunk] = []

    def add(first: int, last: int, path: Sequence[tuple[int, int]]) -> None:
        ranges = (*path, (first, last))
        key_S = np.concatenate([np.arange(a, b) for a, b in ranges])
        query_Q = np.arange(first, last)[:, None]
        seen = (key_S[None] <= query_Q) & (query_Q < reach_T[key_S][None])
        found.append(Chunk(first, last, ranges, torch.from_numpy(seen)))

    def cut(siblings: list[int], path: tuple[tuple[int, int], ...]) -> None:
        at = 0
        while at < len(siblings):
            first, last = int(start_N[siblings[at]]), int(reach_N[siblings[at]])
            if last - first > limit:
                own = int(start_N[siblings[at]]), int(end_N[siblings[at]])
                for begin in range(own[0], own[1], limit):
                    end = min(begin + limit, own[1])
                    add(begin, end, (*path, (own[0], begin)) if begin > own[0] else path)
                cut(children.get(siblings[at], []), (*path, own))
                at += 1
                continue
            at += 1
            while at < len(siblings) and reach_N[siblings[at]] - first <= limit:
                last = int(reach_N[siblings[at]])
                at += 1
            add(first, last, path)

    cut(children.get(-1, []), ())
    return found


def chunk_attention(
    q_H_T_D: torch.Tensor,
    k_K_T_D: torch.Tensor,
    v_K_T_D: torch.Tensor,
    cut: Sequence[Chunk],
    scale: float,
) -> torch.Tensor:
    """As `m2gym.forge.attention.tree_attention`; ``cut`` is `chunks` of the tree's layout."""
    heads, keys = q_H_T_D.shape[0], k_K_T_D.shape[0]
    k, v = (x.repeat_interleave(heads // keys, 0) for x in (k_K_T_D, v_K_T_D))
    parts = []
    for chunk in cut:
        own_k, own_v = (
            torch.cat([x[:, a:b] for a, b in chunk.keys], 1)
            if len(chunk.keys) > 1
            else x[:, chunk.first : chunk.last]
            for x in (k, v)
        )
        parts.append(
            F.scaled_dot_product_attention(
                q_H_T_D[None, :, chunk.first : chunk.last],
                own_k[None],
                own_v[None],
                attn_mask=chunk.mask_Q_S,
                scale=scale,
            )[0]
        )
    return torch.cat(parts, 1)
