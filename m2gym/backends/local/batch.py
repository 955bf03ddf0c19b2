"""Decoding on a CPU: rows fed a token each, pass after pass, while they stay the same.

::

    own      row 0 ▓▓▓▓▓▓░░     the rows' places in the store, side by side from the first on, in
             row 1 ▓▓▓░░░░░     one product; a mask hides what lies beyond a row's length
    shared   depth 0  node a ──────────── rows 0 1 2 3
             depth 1  node b ─ rows 0 2 │ node c ─ rows 1 3

Nodes of one depth and about one length are one product too: their keys side by side, each with the
rows below it. What does not change from pass to pass is made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from m2gym.backends.local.attention import Block, block, merge
from m2gym.backends.local.store import Node, Row, Store

ALIKE = 0.5
"""Nodes share a product when the shortest has at least this share of the longest's tokens; ours."""


def batches(
    store: Store, rows: Sequence[Row], count: int = 1, last: Sequence[Batch] = ()
) -> list[Batch]:
    """Batches of about equal size that cover running rows.

    Args:
        store: whose rows they are; they are moved to its first places.
        rows: all whose nodes are filled.
        count: how many batches, at most.
        last: the batches before, whose copies of nodes serve on where the nodes are the same.
    """
    store.pack(rows)
    ordered = sorted(rows, key=lambda row: row.slot)
    kept: dict[tuple[int, ...], _Copies] = {}
    for before in last:
        kept |= before.kept
    size = -(-len(ordered) // count)
    made = []
    for at in range(0, len(ordered), size):
        made.append(Batch(store, ordered[at : at + size], kept))
        kept |= made[-1].kept
    return made


class Batch:
    """Running rows whose places in the store are side by side, in the order of these places.

    ``kept``: copies of nodes that serve on.
    """

    def __init__(
        self, store: Store, rows: Sequence[Row], kept: Mapping[tuple[int, ...], _Copies]
    ) -> None:
        self.store, self.rows = store, rows
        self.device = store.shape.device
        self._place = slice(rows[0].slot, rows[0].slot + len(rows))
        lengths = [len(row.ids) for row in self.rows]
        self._longest = max(lengths)
        self._at_B = torch.tensor(lengths, device=self.device)
        self._base_B = torch.tensor([row.base for row in self.rows], device=self.device)
        self._row_B1 = torch.arange(len(rows), device=self.device)[:, None]
        self._room = 0
        self.shared = _shared(store, self.rows, kept)

    @property
    def kept(self) -> dict[tuple[int, ...], _Copies]:
        """Copies of nodes by the nodes they are of."""
        return {shared.copies.name: shared.copies for shared in self.shared}

    def reserve(self) -> None:
        """Room for a token more in every row: of all batches before the first of them begins."""
        self.store.reserve(self._longest + 1)

    def begin(self) -> torch.Tensor:
        """Make ready for a pass; the positions of the tokens that are fed."""
        self._longest += 1
        shape, room = self.store.shape, self.store.k[0].shape[2]
        if room != self._room:
            beyond = torch.arange(room, device=self.device)[None] >= self._at_B[:, None]
            kind = torch.promote_types(shape.dtype, torch.float32)
            mask = torch.zeros(beyond.shape, dtype=kind, device=self.device)
            self._mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None]
            heads = torch.arange(shape.heads, device=self.device)
            place_B1 = self._place.start + self._row_B1
            self._first_BK, self._room = (place_B1 * shape.heads + heads) * room, room
        self._mask[self._row_B1[:, 0], :, :, self._at_B] = 0.0
        self._place_P = (self._first_BK + self._at_B[:, None]).flatten()
        return self._base_B + self._at_B

    def done(self, ids: Sequence[int]) -> None:
        """The pass is over: rows hold what they were fed."""
        for row, token in zip(self.rows, ids, strict=True):
            row.ids.append(token)
        self._at_B = self._at_B + 1
        self.store.computed += len(self.rows)

    def attend(
        self,
        layer: int,
        q_H_B_D: torch.Tensor,
        k_K_B_D: torch.Tensor,
        v_K_B_D: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """`m2gym.backends.local.hooked.Attend` for this pass."""
        heads, rows, width = q_H_B_D.shape
        keys = k_K_B_D.shape[0]
        own = self._kept(self.store.k[layer], k_K_B_D), self._kept(self.store.v[layer], v_K_B_D)
        q_B_K_G_D = q_H_B_D.transpose(0, 1).reshape(rows, keys, heads // keys, width)
        found = block(q_B_K_G_D, *own, scale, mask=self._mask[..., : self._longest])
        for shared in self.shared:
            found = merge(found, shared.attend(layer, q_B_K_G_D, scale))
        return found[0].to(q_H_B_D.dtype).reshape(rows, heads, -1).transpose(0, 1)

    def _kept(self, held: torch.Tensor, new_K_B_D: torch.Tensor) -> torch.Tensor:
        """What the rows hold with the new added, B x K x longest x D."""
        width = held.shape[-1]
        new_P_D = new_K_B_D.transpose(0, 1).reshape(-1, width)
        held.view(-1, width).index_copy_(0, self._place_P, new_P_D)
        return held[self._place, :, : self._longest]


class _Copies:
    """Keys and values of some nodes, N x K x the longest x D a layer; of one node its own."""

    def __init__(self, store: Store, nodes: Sequence[Node]) -> None:
        self.nodes, self.name = list(nodes), _name(nodes)
        lengths = [len(node.ids) for node in nodes]
        if len(nodes) == 1:
            self.k, self.v = [k[None] for k in nodes[0].k], [v[None] for v in nodes[0].v]
        else:
            shape, size = store.shape, (len(nodes), store.shape.heads, max(lengths))
            self.k, self.v = shape.keys(*size), shape.values(*size)
            for n, node in enumerate(nodes):
                for layer in range(shape.layers):
                    self.k[layer][n, :, : lengths[n]] = node.k[layer]
                    self.v[layer][n, :, : lengths[n]] = node.v[layer]
        self.mask: torch.Tensor | None = None
        if min(lengths) < max(lengths):
            length_N = torch.tensor(lengths, device=store.shape.device)
            beyond = torch.arange(max(lengths), device=store.shape.device) >= length_N[:, None]
            kind = torch.promote_types(store.shape.dtype, torch.float32)
            mask = torch.zeros(beyond.shape, dtype=kind, device=store.shape.device)
            self.mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None]


class _Shared:
    """Some nodes of one depth, each with the rows below it, in one product."""

    def __init__(self, copies: _Copies, members: Sequence[Sequence[int]], rows: int) -> None:
        self.copies = copies
        device = copies.k[0].device
        self.nodes, self.most = len(members), max(len(below) for below in members)
        padded = [[*below, *[below[0]] * (self.most - len(below))] for below in members]
        place = {
            row: n * self.most + m for n, below in enumerate(members) for m, row in enumerate(below)
        }
        taken, back = (
            [row for below in padded for row in below],
            [place.get(r, 0) for r in range(rows)],
        )
        straight = taken == list(range(rows))
        self._taken_P = None if straight else torch.tensor(taken, device=device)
        self._back_B = torch.tensor(back, device=device)
        self._outside_B: torch.Tensor | None = None
        if len(place) < rows:
            self._outside_B = torch.tensor([r not in place for r in range(rows)], device=device)

    def attend(self, layer: int, q_B_K_G_D: torch.Tensor, scale: float) -> Block:
        """Of every row; of one that is not below these nodes with a log-sum-exp of -inf."""
        keys, group, width = q_B_K_G_D.shape[1:]
        q_P_K_G_D = q_B_K_G_D
        if self._taken_P is not None:
            q_P_K_G_D = q_B_K_G_D.index_select(0, self._taken_P)
        q_N = q_P_K_G_D.view(self.nodes, self.most, keys, group, width).transpose(1, 2)
        out, lse = block(
            q_N.reshape(self.nodes, keys, self.most * group, width),
            self.copies.k[layer],
            self.copies.v[layer],
            scale,
            mask=self.copies.mask,
        )
        out = out.view(self.nodes, keys, self.most, group, -1).transpose(1, 2)
        lse = lse.view(self.nodes, keys, self.most, group).transpose(1, 2)
        out, lse = out.reshape(-1, keys, group, out.shape[-1]), lse.reshape(-1, keys, group)
        if self._taken_P is not None:
            out, lse = out.index_select(0, self._back_B), lse.index_select(0, self._back_B)
        if self._outside_B is not None:
            lse = lse.masked_fill(self._outside_B[:, None, None], -torch.inf)
        return out, lse


def _shared(
    store: Store, rows: Sequence[Row], kept: Mapping[tuple[int, ...], _Copies]
) -> list[_Shared]:
    """Products that cover the nodes above the rows."""
    below: dict[int, list[int]] = {}
    depths: list[list[Node]] = []
    for n, row in enumerate(rows):
        for depth, node in enumerate(row.prefix()):
            if depth == len(depths):
                depths.append([])
            if id(node) not in below:
                below[id(node)] = []
                depths[depth].append(node)
            below[id(node)].append(n)
    found = []
    for nodes in (some for depth in depths for some in _alike(depth)):
        copies = kept.get(_name(nodes))
        if copies is None:
            copies = _Copies(store, nodes)
        found.append(_Shared(copies, [below[id(node)] for node in nodes], len(rows)))
    return found


def _alike(nodes: Sequence[Node]) -> list[list[Node]]:
    """Nodes of about one length together, in an order that is no matter of the rows'."""
    found: list[list[Node]] = []
    for node in sorted(nodes, key=lambda node: (len(node.ids), id(node)), reverse=True):
        if found and len(node.ids) >= ALIKE * len(found[-1][0].ids):
            found[-1].append(node)
        else:
            found.append([node])
    return found


def _name(nodes: Sequence[Node]) -> tuple[int, ...]:
    """What these nodes are, as they are now: a node that was split is another."""
    return tuple(n for node in nodes for n in (id(node), node.start, len(node.ids)))
