"""One forward pass of the engine: which tokens are fed, and what each attends to.

::

    row fed      node a │ node b │ long part of row 0 │ rows 1 2 3 4, a token each
                 ───────────── causal squares ────────  one batched block over own tokens
                 + rectangles over what lies before   + one rectangle a shared node

Keys and values are written to the store before they are attended to, layer by layer, so that a
node and the rows below it may be fed in the same pass. No block needs a mask but the batched one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from m2gym.backends.local.attention import Block, block, merge
from m2gym.backends.local.store import Node, Row, Store


@dataclass(frozen=True)
class Piece:
    """Tokens fed to one owner in one pass: ``ids`` continue what it already holds."""

    owner: Node | Row
    ids: list[int]

    @property
    def held(self) -> int:
        """Own tokens that the owner has keys and values of already."""
        return self.owner.filled if isinstance(self.owner, Node) else len(self.owner.ids)

    @property
    def position(self) -> int:
        """Position of the first token."""
        start = self.owner.start if isinstance(self.owner, Node) else self.owner.base
        return start + self.held

    @property
    def before(self) -> list[Node]:
        """Nodes above the owner, from the root."""
        if isinstance(self.owner, Row):
            return self.owner.prefix()
        return self.owner.path()[:-1]


@dataclass(frozen=True)
class _Span:
    """A piece in the row fed: tokens ``q0`` to ``q1``."""

    piece: Piece
    q0: int
    q1: int
    held: int
    before: tuple[Node, ...]


class Step:
    """A pass over ``pieces``; rows that are fed one token are batched.

    ``order`` is the pieces in the order of the row; `attend` is what the model calls.
    """

    def __init__(self, store: Store, pieces: Sequence[Piece]) -> None:
        self.store = store
        longs = [p for p in pieces if isinstance(p.owner, Node) or len(p.ids) > 1]
        singles = [p for p in pieces if isinstance(p.owner, Row) and len(p.ids) == 1]
        ranks: dict[int, int] = {id(node): n for n, node in enumerate(store.nodes())}
        singles.sort(key=lambda p: [ranks[id(node)] for node in p.before])
        self.order = [*longs, *singles]
        self.ids = [i for piece in self.order for i in piece.ids]
        self.positions = [piece.position + n for piece in self.order for n in range(len(piece.ids))]
        self._spans: list[_Span] = []
        at = 0
        for piece in longs:
            end = at + len(piece.ids)
            self._spans.append(_Span(piece, at, end, piece.held, tuple(piece.before)))
            at = end
        self._batch = _Batch(store, singles, at) if singles else None
        rows = [p.owner for p in pieces if isinstance(p.owner, Row)]
        need = [len(r.ids) + len(p.ids) for p, r in zip(_row_pieces(pieces), rows, strict=True)]
        store.reserve(max(need, default=0))

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
        for span in self._spans:
            own_k, own_v = self._own(span.piece.owner, layer)
            own_k[:, span.held : span.held + span.q1 - span.q0] = k_K_T_D[:, span.q0 : span.q1]
            own_v[:, span.held : span.held + span.q1 - span.q0] = v_K_T_D[:, span.q0 : span.q1]
        parts = [
            self._span(layer, span, q_H_T_D, k_K_T_D, v_K_T_D, q, group, scale)
            for span in self._spans
        ]
        if self._batch is not None:
            parts.append(self._batch.attend(layer, q, k_K_T_D, v_K_T_D, group, scale))
        out = parts[0] if len(parts) == 1 else torch.cat([p.to(q.dtype) for p in parts], 1)
        out = out.to(q.dtype).view(keys, tokens, group, -1)
        return out.transpose(1, 2).reshape(heads, tokens, -1)

    def _own(self, owner: Node | Row, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(owner, Node):
            return owner.k[layer], owner.v[layer]
        return self.store.k[layer][owner.slot], self.store.v[layer][owner.slot]

    def _span(
        self,
        layer: int,
        span: _Span,
        q_H_T_D: torch.Tensor,
        k_K_T_D: torch.Tensor,
        v_K_T_D: torch.Tensor,
        grouped: torch.Tensor,
        group: int,
        scale: float,
    ) -> torch.Tensor:
        """A causal square over the new tokens, rectangles over all before them."""
        new = slice(span.q0, span.q1)
        k, v = (x[:, new].repeat_interleave(group, 0)[None] for x in (k_K_T_D, v_K_T_D))
        out, lse = block(q_H_T_D[None, :, new], k, v, scale, causal=True)
        keys, n = k_K_T_D.shape[0], span.q1 - span.q0
        found: Block = (
            out[0].view(keys, group, n, -1).transpose(1, 2).reshape(keys, n * group, -1),
            lse[0].view(keys, group, n).transpose(1, 2).reshape(keys, n * group),
        )
        q = grouped[None, :, span.q0 * group : span.q1 * group]
        before = [(node.k[layer], node.v[layer]) for node in span.before]
        if span.held:
            own_k, own_v = self._own(span.piece.owner, layer)
            before.append((own_k[:, : span.held], own_v[:, : span.held]))
        for past_k, past_v in before:
            out, lse = block(q, past_k[None], past_v[None], scale)
            found = merge(found, (out[0], lse[0]))
        return found[0]


def _row_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    return [p for p in pieces if isinstance(p.owner, Row)]


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
        self.nodes = self._ranges([row.prefix() for row in rows])

    @staticmethod
    def _ranges(paths: list[list[Node]]) -> list[tuple[Node, int, int]]:
        """Every node with the (contiguous) rows below it."""
        found: dict[int, tuple[Node, int, int]] = {}
        for n, path in enumerate(paths):
            for node in path:
                first = found[id(node)][1] if id(node) in found else n
                found[id(node)] = (node, first, n + 1)
        return list(found.values())

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
