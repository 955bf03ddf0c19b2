"""A pass over prompts, shared nodes and later turns: what is fed, and what each token attends to.

::

    row fed      node a │ node b │ row 0 │ row 1       `Spans`

Keys and values are written to the store before they are attended to, layer by layer, so that a
node and the rows below it may be fed in the same pass. Rows that are fed one token after the other
are `m2gym.backends.local.batch`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m2gym.backends.local.spans import Piece, Spans
from m2gym.backends.local.store import Node, Row, Store


class Step:
    """A pass over ``pieces``.

    ``order`` is the pieces in the order of the row; `attend` is what the model calls.
    """

    def __init__(self, store: Store, pieces: Sequence[Piece]) -> None:
        self.store = store
        ranks: dict[int, int] = {id(node): n for n, node in enumerate(store.nodes())}
        self.order = sorted(pieces, key=lambda p: [ranks[id(node)] for node in p.before])
        self.ids = [i for piece in self.order for i in piece.ids]
        self.positions = [piece.position + n for piece in self.order for n in range(len(piece.ids))]
        rows = [(p.owner, p.ids) for p in pieces if isinstance(p.owner, Row)]
        store.reserve(max((len(row.ids) + len(ids) for row, ids in rows), default=0))
        self._spans = Spans(store, self.order)

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
        q = q_H_T_D.view(keys, heads // keys, tokens, width).transpose(1, 2)
        self._spans.keep(layer, k_K_T_D, v_K_T_D)
        out = self._spans.attend(
            layer, q_H_T_D, q.reshape(keys, -1, width), k_K_T_D, v_K_T_D, scale
        )
        out = out.to(q.dtype).view(keys, tokens, heads // keys, -1)
        return out.transpose(1, 2).reshape(heads, tokens, -1)
