"""The nodes that a batch hangs on, copied side by side, so that all rows attend to them in one
product whose shape is fixed (`m2gym.backends.local.decode`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from m2gym.backends.local.store import FIRST_LENGTH, Node, Row, Store

MASKED = -3e4
"""Added to the scores of what a row does not see: finite (in 16 bits too), so that a row that sees
nothing has no NaN but a weight of 0 when it is joined."""


class SharedNodes:
    """Copies of the nodes that rows hang on, and which row sees which: ``k``, ``v`` are a tensor a
    layer (K x capacity x D), ``mask`` (places x capacity) is 0 or `MASKED`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.capacity = self.size = 0
        self.k: list[torch.Tensor] = []
        self.v: list[torch.Tensor] = []
        self.mask = torch.empty(0)
        self._held: dict[int, _Copy] = {}
        self._rows: list[tuple[int, Node | None, int]] = []

    def show(self, rows: Sequence[Row]) -> bool:
        """Have the rows see their nodes; whether the tensors are others than before."""
        now = [(row.slot, row.node, row.base) for row in rows]
        if now == self._rows and self._whole(rows):
            return False
        moved = False
        if not self._whole(rows):
            moved = self._copy(rows)
        mask = torch.full(self.mask.shape, MASKED)
        for row in rows:
            for node in row.prefix():
                at = self._held[id(node)].at
                mask[row.slot, at : at + len(node.ids)] = 0.0
        self.mask.copy_(mask)
        self._rows = now
        return moved

    def forget(self) -> None:
        """Hold no node any more."""
        self._held, self._rows = {}, []

    def _whole(self, rows: Sequence[Row]) -> bool:
        nodes = (node for row in rows for node in row.prefix())
        return all(id(n) in self._held and self._held[id(n)].is_of(n) for n in nodes)

    def _copy(self, rows: Sequence[Row]) -> bool:
        nodes = list({id(node): node for row in rows for node in row.prefix()}.values())
        total = sum(len(node.ids) for node in nodes)
        moved = total > self.capacity or len(self.mask) != self.store.rows
        if moved:
            shape = self.store.shape
            self.capacity = power_of_two(max(total, self.capacity), FIRST_LENGTH)
            self.k, self.v = [], []
            self.k = shape.keys(shape.heads, self.capacity)
            self.v = shape.values(shape.heads, self.capacity)
            self.mask = torch.empty(
                (self.store.rows, self.capacity), dtype=shape.dtype, device=shape.device
            )
        self._held, at = {}, 0
        for node in nodes:
            end = at + len(node.ids)
            for layer in range(self.store.shape.layers):
                self.k[layer][:, at:end] = node.k[layer]
                self.v[layer][:, at:end] = node.v[layer]
            self._held[id(node)] = _Copy(node, at, node.start, len(node.ids))
            at = end
        self.size = power_of_two(total, FIRST_LENGTH) if total else 0
        return moved


@dataclass(frozen=True)
class _Copy:
    """A node's place in the shared tensors, and what it was when it was copied."""

    node: Node
    at: int
    start: int
    length: int

    def is_of(self, node: Node) -> bool:
        return (self.node, self.start, self.length) == (node, node.start, len(node.ids))


def power_of_two(least: int, first: int) -> int:
    """The first of ``first``, twice that, four times … that is at least ``least``."""
    found = first
    while found < least:
        found *= 2
    return found
