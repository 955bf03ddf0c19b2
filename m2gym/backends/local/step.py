"""One forward pass of the engine: which tokens are fed, and what each attends to.

::

    row fed      node a │ node b │ long part of row 0 │ rows 1 2 3 4, a token each
                 ──────────── `Spans` ────────────────  one batched block over own tokens
                                                      + one rectangle a shared node

Keys and values are written to the store before they are attended to, layer by layer, so that a
node and the rows below it may be fed in the same pass. No block needs a mask but the batched one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m2gym.backends.local.attention import block, merge
from m2gym.backends.local.spans import Piece, Spans, ranges
from m2gym.backends.local.store import Node, Row, Store


class Step:
    """A pass over ``pieces``; rows that are fed one token are batched.

    ``order`` is the pieces in the order of the row; `attend` is what the model calls.
    """

    def __init__(self, store: Store, pieces: Sequence[Piece]) -> None:
        self.store = store
        ranks: dict[int, int] = {id(node): n for n, node in enumerate(store.nodes())}
        by_nodes = sorted(pieces, key=lambda p: [ranks[id(node)] for node in p.before])
        longs = [p for p in by_nodes if isinstance(p.owner, Node) or len(p.ids) > 1]
        singles = [p for p in by_nodes if isinstance(p.owner, Row) and len(p.ids) == 1]
        self.order = [*longs, *singles]
        self.ids = [i for piece in self.order for i in piece.ids]
        self.positions = [piece.position + n for piece in self.order for n in range(len(piece.ids))]
        rows = [(p.owner, p.ids) for p in pieces if isinstance(p.owner, Row)]
        store.reserve(max((len(row.ids) + len(ids) for row, ids in rows), default=0))
        self._spans = Spans(store, longs) if longs else None
        start = 0 if self._spans is None else self._spans.tokens
        self._batch = _Batch(store, singles, start) if singles else None

    @property
    def last(self) -> list[int]:
        """Row index of every piece's last token."""
        found, at = [], 0
        for piece in self.order:
            at += len(piece.ids)
            found.append(at - 1)
        return found

    def done(self) -> None:
        """The pass is over: owners hold what they were fed."""
        for piece in self.order:
            if isinstance(piece.owner, Node):
                piece.owner.filled += len(piece.ids)
            else:
                piece.owner.ids += piece.ids
            self.store.computed += len(piece.ids)

    def attend(
        self,
        layer: int,
        q_H_T_D: torch.Tensor,
        k_K_T_D: torch.Tensor,
        v_K_T_D: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """`m2gym.backends.local.hooked.Attend` for this pass."""
        heads, tokens, width = q_H_T_D.shape
        keys = k_K_T_D.shape[0]
        group = heads // keys
        q = q_H_T_D.view(keys, group, tokens, width).transpose(1, 2).reshape(keys, -1, width)
        parts = []
        if self._spans is not None:
            self._spans.keep(layer, k_K_T_D, v_K_T_D)
            parts.append(self._spans.attend(layer, q_H_T_D, q, k_K_T_D, v_K_T_D, scale))
        if self._batch is not None:
            parts.append(self._batch.attend(layer, q, k_K_T_D, v_K_T_D, group, scale))
        out = parts[0] if len(parts) == 1 else torch.cat([p.to(q.dtype) for p in parts], 1)
        out = out.to(q.dtype).view(keys, tokens, group, -1)
        return out.transpose(1, 2).reshape(heads, tokens, -1)


class _Batch:
    """Rows fed one token each, from token ``start`` of the row on, sorted by their nodes."""

    def __init__(self, store: Store, pieces: Sequence[Piece], start: int) -> None:
        self.store, self.start = store, start
        device = store.shape.device
        owners = [piece.owner for piece in pieces]
        rows = [owner for owner in owners if isinstance(owner, Row)]
        slots = [row.slot for row in rows]
        lengths = [len(row.ids) + 1 for row in rows]
        low, high = min(slots), max(slots) + 1
        self.dense = len(rows) * 2 >= high - low
        self.count, self.longest = len(rows), max(lengths)
        self.slots = torch.tensor(slots, device=device)
        self.at = torch.tensor([n - 1 for n in lengths], device=device)
        self.span = slice(low, high)
        self.places = self.slots - low if self.dense else torch.arange(len(rows), device=device)
        size = high - low if self.dense else len(rows)
        self.ordered = self.places.tolist() == list(range(size))
        self.size = size
        length_B = torch.ones(size, dtype=torch.long, device=device)
        length_B[self.places] = torch.tensor(lengths, device=device)
        hidden = torch.arange(self.longest, device=device)[None] >= length_B[:, None]
        kind = torch.promote_types(store.shape.dtype, torch.float32)
        mask = torch.zeros(hidden.shape, dtype=kind, device=device).masked_fill(hidden, -torch.inf)
        self.mask = None if not bool(hidden.any()) else mask[:, None, None, :]
        self.nodes = ranges([row.prefix() for row in rows])

    def attend(
        self,
        layer: int,
        q_all: torch.Tensor,
        k_K_T_D: torch.Tensor,
        v_K_T_D: torch.Tensor,
        group: int,
        scale: float,
    ) -> torch.Tensor:
        """Output, K x (rows·G) x D."""
        keys, width = q_all.shape[0], q_all.shape[2]
        q_K_Q_D = q_all[:, self.start * group :]
        own_k, own_v = self.store.k[layer], self.store.v[layer]
        own_k[self.slots, :, self.at] = k_K_T_D[:, self.start :].transpose(0, 1)
        own_v[self.slots, :, self.at] = v_K_T_D[:, self.start :].transpose(0, 1)
        if self.dense:
            k, v = own_k[self.span, :, : self.longest], own_v[self.span, :, : self.longest]
        else:
            k = own_k[:, :, : self.longest].index_select(0, self.slots)
            v = own_v[:, :, : self.longest].index_select(0, self.slots)
        q_B = q_K_Q_D.view(keys, self.count, group, width).transpose(0, 1)
        if not self.ordered:
            placed = q_B.new_zeros((self.size, keys, group, width))
            placed[self.places] = q_B
            q_B = placed
        out_B, lse_B = block(q_B, k, v, scale, mask=self.mask)
        if not self.ordered:
            out_B, lse_B = out_B[self.places], lse_B[self.places]
        out = out_B.transpose(0, 1).reshape(keys, self.count * group, -1)
        if not self.nodes:
            return out
        lse = lse_B.transpose(0, 1).reshape(keys, self.count * group)
        out = out.to(lse.dtype)
        for node, first, last in self.nodes:
            rows = slice(first * group, last * group)
            past = block(q_K_Q_D[None, :, rows], node.k[layer][None], node.v[layer][None], scale)
            out[:, rows], lse[:, rows] = merge(
                (out[:, rows], lse[:, rows]), (past[0][0], past[1][0])
            )
        return out
