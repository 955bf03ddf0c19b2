"""Long pieces of a pass: prompts, shared nodes, later turns.

::

    tokens fed    node a │ row 0 │ row 1 │ row 2        lengths 9, 5, 5, 6
                  ──────  ─────────────────────
                  causal squares, those of about one length in one batch (5, 5, 6)
                + rectangles: a node's keys for all rows below it in one product,
                  what a row held before for that row alone

No square needs a mask: padding lies to the right, where no token looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from m2gym.backends.local.attention import block, merge
from m2gym.backends.local.store import Node, Row, Store

PADDED = 0.8
"""Squares share a batch when the shortest has at least this share of the longest's tokens; ours."""


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


def ranges(paths: Sequence[Sequence[Node]]) -> list[tuple[Node, int, int]]:
    """Every node with the (contiguous) members below it."""
    found: dict[int, tuple[Node, int, int]] = {}
    for n, path in enumerate(paths):
        for node in path:
            first = found[id(node)][1] if id(node) in found else n
            found[id(node)] = (node, first, n + 1)
    return list(found.values())


def apart(pieces: Sequence[Piece], most: int) -> list[list[Piece]]:
    """At most so many parts of about as many tokens each; what hangs on one root stays together."""
    families: dict[int, list[Piece]] = {}
    for piece in pieces:
        root = piece.before[0] if piece.before else piece.owner
        families.setdefault(id(root), []).append(piece)
    sized = [(sum(len(piece.ids) for piece in family), family) for family in families.values()]
    parts: list[list[Piece]] = [[] for _ in range(min(most, len(sized)))]
    tokens = [0] * len(parts)
    for size, family in sorted(sized, key=lambda pair: pair[0], reverse=True):
        least = tokens.index(min(tokens))
        parts[least] += family
        tokens[least] += size
    return parts


@dataclass(frozen=True)
class _Span:
    """A piece in the row fed: tokens ``q0`` to ``q1``."""

    owner: Node | Row
    q0: int
    q1: int
    held: int


class Spans:
    """Pieces from token 0 of the row on, sorted by their nodes."""

    def __init__(self, store: Store, pieces: Sequence[Piece]) -> None:
        self.store, self._spans, at = store, [], 0
        for piece in pieces:
            end = at + len(piece.ids)
            self._spans.append(_Span(piece.owner, at, end, piece.held))
            at = end
        self.tokens = at
        self._squares = [_Square(batch, store.shape.device) for batch in _alike(self._spans)]
        self._nodes = [
            (node, self._spans[first].q0, self._spans[last - 1].q1)
            for node, first, last in ranges([piece.before for piece in pieces])
        ]

    def keep(self, layer: int, k_K_T_D: torch.Tensor, v_K_T_D: torch.Tensor) -> None:
        """Write the new keys and values to their owners."""
        for span in self._spans:
            own_k, own_v = self._own(span.owner, layer)
            own_k[:, span.held : span.held + span.q1 - span.q0] = k_K_T_D[:, span.q0 : span.q1]
            own_v[:, span.held : span.held + span.q1 - span.q0] = v_K_T_D[:, span.q0 : span.q1]

    def attend(
        self,
        layer: int,
        q_H_T_D: torch.Tensor,
        grouped: torch.Tensor,
        k_K_T_D: torch.Tensor,
        v_K_T_D: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Output, K x (tokens·G) x D; ``grouped`` are the queries in that layout."""
        keys, width = k_K_T_D.shape[0], v_K_T_D.shape[-1]
        group = q_H_T_D.shape[0] // keys
        kind = torch.promote_types(q_H_T_D.dtype, torch.float32)
        held = any(span.held for span in self._spans)
        merged = bool(self._nodes) or held
        out = q_H_T_D.new_empty(
            (keys, self.tokens, group, width), dtype=kind if merged else q_H_T_D.dtype
        )
        lse = q_H_T_D.new_empty((keys, self.tokens, group), dtype=kind)
        for square in self._squares:
            square.attend(q_H_T_D, k_K_T_D, v_K_T_D, scale, out, lse)
        out, lse = out.view(keys, -1, width), lse.view(keys, -1)
        past = [(node.k[layer], node.v[layer], q0, q1) for node, q0, q1 in self._nodes]
        for span in self._spans:
            if span.held:
                own_k, own_v = self._own(span.owner, layer)
                past.append((own_k[:, : span.held], own_v[:, : span.held], span.q0, span.q1))
        for k, v, q0, q1 in past:
            new = slice(q0 * group, q1 * group)
            found = block(grouped[None, :, new], k[None], v[None], scale)
            out[:, new], lse[:, new] = merge((out[:, new], lse[:, new]), (found[0][0], found[1][0]))
        return out

    def _own(self, owner: Node | Row, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(owner, Node):
            return owner.k[layer], owner.v[layer]
        return self.store.k[layer][owner.slot], self.store.v[layer][owner.slot]


def _alike(spans: Sequence[_Span]) -> list[list[_Span]]:
    """Spans of about one length together."""
    found: list[list[_Span]] = []
    for span in sorted(spans, key=lambda s: s.q0 - s.q1):
        longest = found[-1][0] if found else span
        if found and span.q1 - span.q0 >= PADDED * (longest.q1 - longest.q0):
            found[-1].append(span)
        else:
            found.append([span])
    return found


class _Square:
    """New tokens of some spans attending to each other, padded to the longest; nothing is moved
    where spans of one length stand side by side."""

    def __init__(self, spans: Sequence[_Span], device: torch.device) -> None:
        self.first, self.count = spans[0], len(spans)
        self.size = spans[0].q1 - spans[0].q0
        self.end = spans[0].q0 + self.count * self.size
        self.at_B_n: torch.Tensor | None = None
        ends = [self.first.q0 + (n + 1) * self.size for n in range(self.count)]
        if [span.q1 for span in spans] != ends:
            first_B = torch.tensor([span.q0 for span in spans])
            length_B = torch.tensor([span.q1 - span.q0 for span in spans])
            n = torch.arange(int(length_B.max()))[None]
            valid_B_n = n < length_B[:, None]
            at_B_n = first_B[:, None] + torch.minimum(n, length_B[:, None] - 1)
            self.token_P = at_B_n[valid_B_n].to(device)
            self.place_P = valid_B_n.flatten().nonzero()[:, 0].to(device)
            self.at_B_n = at_B_n.to(device)

    def attend(
        self,
        q_H_T_D: torch.Tensor,
        k_K_T_D: torch.Tensor,
        v_K_T_D: torch.Tensor,
        scale: float,
        out_K_T_G_D: torch.Tensor,
        lse_K_T_G: torch.Tensor,
    ) -> None:
        """Write output and log-sum-exp to the spans' places."""
        keys, _, group, width = out_K_T_G_D.shape
        q, k, v = (self._of(x) for x in (q_H_T_D, k_K_T_D, v_K_T_D))
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        out, lse = block(q, k, v, scale, causal=True)
        out = out.view(-1, keys, group, q.shape[2], width).permute(1, 0, 3, 2, 4)
        lse = lse.view(-1, keys, group, q.shape[2]).permute(1, 0, 3, 2)
        out, lse = out.reshape(keys, -1, group, width), lse.reshape(keys, -1, group)
        if self.at_B_n is None:
            new = slice(self.first.q0, self.end)
            out_K_T_G_D[:, new], lse_K_T_G[:, new] = out, lse
            return
        out_K_T_G_D[:, self.token_P] = out[:, self.place_P].to(out_K_T_G_D.dtype)
        lse_K_T_G[:, self.token_P] = lse[:, self.place_P].to(lse_K_T_G.dtype)

    def _of(self, x_H_T_D: torch.Tensor) -> torch.Tensor:
        """B x heads x n x D."""
        if self.at_B_n is None:
            new = x_H_T_D[:, self.first.q0 : self.end]
            return new.reshape(len(new), self.count, self.size, -1).transpose(0, 1)
        return x_H_T_D[:, self.at_B_n].transpose(0, 1)
