"""Keys and values of the engine: shared prefixes in a tree, each sequence's own in a row.

::

    Node (few-shot examples) ─┬─ Node (question a) ─┬─ Row 0   ids generated, later turns
                              │                     └─ Row 1
                              └─ Node (question b) ─── Row 2

A node's tokens are computed once and attended to by all rows below it in one product. A row
belongs to one sequence; when that ends, the row stays for its session's next turn, which goes on in
it, until another sequence needs the place. Sharing is on token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from m2gym.core.errors import InputError
from m2gym.forge.tree import common_prefix

Ids = NDArray[np.int64]

MIN_SHARED = 16
"""Tokens from which a prefix gets a node of its own; the project's choice."""

FIRST_LENGTH = 64
"""Tokens that rows have room for at first; doubled as needed. The project's choice."""


@dataclass(frozen=True)
class Shape:
    """Of keys and values: layers, key heads, width of keys and of values, and where they lie."""

    layers: int
    heads: int
    key_width: int
    value_width: int
    dtype: torch.dtype
    device: torch.device

    def keys(self, *size: int) -> list[torch.Tensor]:
        """One tensor a layer; ``size`` has 0 where the heads' number and the width are."""
        return [self._zeros(size, self.key_width) for _ in range(self.layers)]

    def values(self, *size: int) -> list[torch.Tensor]:
        """As `keys`."""
        return [self._zeros(size, self.value_width) for _ in range(self.layers)]

    def _zeros(self, size: tuple[int, ...], width: int) -> torch.Tensor:
        return torch.zeros((*size, width), dtype=self.dtype, device=self.device)


@dataclass(eq=False)
class Node:
    """A shared stretch of tokens; the first ``filled`` of them have keys and values (K x n x D)."""

    ids: Ids
    k: list[torch.Tensor]
    v: list[torch.Tensor]
    start: int
    parent: Node | None
    filled: int = 0
    rows: int = 0
    used: int = 0
    children: list[Node] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Tokens from the root to the end of this node."""
        return self.start + len(self.ids)

    def path(self) -> list[Node]:
        """Nodes from the root to this one."""
        found: list[Node] = []
        at: Node | None = self
        while at is not None:
            found.append(at)
            at = at.parent
        return found[::-1]


@dataclass(eq=False)
class Row:
    """A sequence's own tokens, ``ids``, whose keys and values lie in place ``slot``."""

    slot: int
    node: Node | None
    session: str
    ids: list[int] = field(default_factory=list)
    used: int = 0

    @property
    def base(self) -> int:
        """Tokens before the row's own."""
        return 0 if self.node is None else self.node.end

    def prefix(self) -> list[Node]:
        """The nodes it hangs on, from the root."""
        return [] if self.node is None else self.node.path()

    def whole(self) -> Ids:
        """Every token with keys and values."""
        return np.concatenate([*(n.ids for n in self.prefix()), np.array(self.ids, np.int64)])


class Store:
    """Nodes and rows.

    Args:
        shape: of keys and values.
        rows: sequences that may have a row at once, running or kept.
        tokens: kept in all; what nobody runs on is given up first, oldest first.
    """

    def __init__(self, shape: Shape, *, rows: int, tokens: int) -> None:
        if rows < 1 or tokens < 1:
            raise InputError(f"rows and tokens are at least 1, got {rows} and {tokens}")
        self.shape, self.rows, self.tokens = shape, rows, tokens
        self.reused = self.computed = 0
        self.k: list[torch.Tensor] = []
        self.v: list[torch.Tensor] = []
        self.clear()

    def clear(self) -> None:
        """Forget everything: the weights have changed. The memory of rows stays, so that passes
        captured over it stay too, unless it is more than half of all there may be."""
        self.roots: list[Node] = []
        self.running: list[Row] = []
        self.kept: dict[str, Row] = {}
        self._free = list(range(self.rows))[::-1]
        self._clock = 0
        if not self.k or self.held > self.tokens // 2:
            self._resize(0, 0)

    # -- rows -----------------------------------------------------------------------------------

    @property
    def places(self) -> int:
        """Rows there is memory for; `spare` comes after them."""
        return self.k[0].shape[0] - 1

    @property
    def spare(self) -> int:
        """A place that no row has, to be written to when a write must go somewhere."""
        return self.places

    @property
    def held(self) -> int:
        """Tokens there is memory for."""
        own = self.places * self.k[0].shape[2]
        return own + sum(len(node.ids) for node in self.nodes())

    @property
    def full(self) -> bool:
        """Whether every row is running."""
        return len(self.running) == self.rows

    def open(self, ids: Ids, session: str, others: Sequence[Ids]) -> Row:
        """A running row for a sequence, with as much of ``ids`` at hand as there is.

        At least the last id is left to be fed, since its output is wanted. ``others`` are sequences
        about to be opened: what they share with this one gets a node, not yet filled.
        """
        self._clock += 1
        kept = self.kept.get(session)
        if kept is not None:
            held = kept.whole()
            if len(held) < len(ids) and common_prefix(held, ids) == len(held):
                del self.kept[session]
                return self._run(kept, len(held))
        want = max((common_prefix(ids, other) for other in others), default=0)
        node = self._node(ids[:-1], want)
        slot = self._slot()
        row = Row(slot, node, session)
        if node is not None:
            node.rows += 1
        return self._run(row, row.base)

    def close(self, row: Row, *, keep: bool) -> None:
        """The sequence has ended; its row is kept for the session's next turn, or given up."""
        self.running.remove(row)
        old = self.kept.pop(row.session, None) if keep else None
        if old is not None:
            self._drop(old)
        if keep:
            self.kept[row.session] = row
        else:
            self._drop(row)
        self.shrink()

    def forget(self, session: str) -> None:
        """Give up what is kept for a session."""
        row = self.kept.pop(session, None)
        if row is not None:
            self._drop(row)

    def pack(self, rows: Sequence[Row]) -> None:
        """Move running rows to the first places; who had those takes theirs."""
        self.reserve(0)
        inside = {row.slot: row for row in rows if row.slot < len(rows)}
        others = {row.slot: row for row in self._rows()}
        holes = iter(sorted(set(range(len(rows))) - inside.keys()))
        for row in rows:
            if row.slot >= len(rows):
                self._swap(row, next(holes), others)

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens in every row."""
        slots, cap = self.places, self.k[0].shape[2]
        used = max((row.slot for row in self._rows()), default=-1) + 1
        if length > cap or used > slots:
            wide = max(cap, FIRST_LENGTH)
            while wide < length:
                wide *= 2
            self._resize(max(slots, min(self.rows, max(used, 2 * slots))), wide)

    # -- nodes ----------------------------------------------------------------------------------

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children."""
        stack = self.roots[::-1]
        while stack:
            node = stack.pop()
            yield node
            stack += node.children[::-1]

    def shrink(self) -> None:
        """Give up kept rows and unused nodes, the longest unused first, while there is too much."""
        while self.held > self.tokens:
            leaves = [n for n in self.nodes() if not n.children and not n.rows]
            idle: list[Node | Row] = [*leaves, *self.kept.values()]
            oldest = min(idle, key=lambda held: held.used, default=None)
            if oldest is None:
                return
            if isinstance(oldest, Node):
                siblings = self.roots if oldest.parent is None else oldest.parent.children
                siblings.remove(oldest)
            else:
                self.forget(oldest.session)

    def _node(self, ids: Ids, want: int) -> Node | None:
        """The deepest node that spells a prefix of ``ids``; made where ``want`` tokens, or those of
        a row, are shared."""
        node, depth = self._descend(ids)
        donor, length = None, depth
        for row in self._rows():
            if row.base > depth:
                continue  # what it has before its own tokens is in nodes, not in its row
            if (shared := common_prefix(row.whole(), ids)) > length:
                donor, length = row, shared
        target = max(length, min(want, len(ids)))
        if length - depth >= MIN_SHARED and donor is not None:
            node = self._adopt(donor, ids[depth:length], node, depth)
            depth = length
        if target - depth >= MIN_SHARED:
            node = self._grow(node, ids[depth:target])
        return node

    def _descend(self, ids: Ids) -> tuple[Node | None, int]:
        node, depth = None, 0
        while True:
            children = self.roots if node is None else node.children
            best = max(children, key=lambda c: common_prefix(c.ids, ids[depth:]), default=None)
            shared = 0 if best is None else common_prefix(best.ids, ids[depth:])
            if best is None or shared == 0 or (shared < len(best.ids) and shared < MIN_SHARED):
                return node, depth
            if shared < len(best.ids):
                best = self._split(best, shared)
            best.used = self._clock
            node, depth = best, depth + shared
            if depth == len(ids):
                return node, depth

    def _split(self, node: Node, at: int) -> Node:
        siblings = self.roots if node.parent is None else node.parent.children
        upper = Node(
            node.ids[:at],
            [k[:, :at] for k in node.k],
            [v[:, :at] for v in node.v],
            node.start,
            node.parent,
            min(node.filled, at),
            children=[node],
        )
        siblings[siblings.index(node)] = upper
        node.ids, node.start, node.parent = node.ids[at:], node.start + at, upper
        node.k, node.v = [k[:, at:] for k in node.k], [v[:, at:] for v in node.v]
        node.filled = max(0, node.filled - at)
        return upper

    def _grow(self, parent: Node | None, ids: Ids) -> Node:
        size = (self.shape.heads, len(ids))
        start = 0 if parent is None else parent.end
        node = Node(ids, self.shape.keys(*size), self.shape.values(*size), start, parent)
        node.used = self._clock
        (self.roots if parent is None else parent.children).append(node)
        return node

    def _adopt(self, row: Row, ids: Ids, parent: Node | None, depth: int) -> Node:
        """A node from a row's own keys and values, copied."""
        node, at = self._grow(parent, ids), depth - row.base
        for layer in range(self.shape.layers):
            node.k[layer].copy_(self.k[layer][row.slot, :, at : at + len(ids)])
            node.v[layer].copy_(self.v[layer][row.slot, :, at : at + len(ids)])
        node.filled = len(ids)
        return node

    def _rows(self) -> Iterator[Row]:
        yield from self.running
        yield from self.kept.values()

    def _run(self, row: Row, reused: int) -> Row:
        row.used = self._clock
        self.reused += reused
        self.running.append(row)
        return row

    def _slot(self) -> int:
        if not self._free:
            oldest = min(self.kept.values(), key=lambda row: row.used, default=None)
            if oldest is None:
                raise InputError(f"all {self.rows} rows are running; close one first")
            self.forget(oldest.session)
        self._free.sort(reverse=True)
        return self._free.pop()

    def _swap(self, row: Row, slot: int, owners: Mapping[int, Row]) -> None:
        """Give a row another place, and who has that the row's."""
        other = owners.get(slot)
        for held in [*self.k, *self.v]:
            mine = held[row.slot, :, : len(row.ids)].clone()
            if other is not None:
                held[row.slot, :, : len(other.ids)] = held[slot, :, : len(other.ids)]
            held[slot, :, : len(row.ids)] = mine
        if other is None:
            self._free[self._free.index(slot)] = row.slot
        else:
            other.slot = row.slot
        row.slot = slot

    def _drop(self, row: Row) -> None:
        self._free.append(row.slot)
        if row.node is not None:
            row.node.rows -= 1

    def _resize(self, slots: int, length: int) -> None:
        size = (slots + 1, self.shape.heads, length)
        k, v = self.shape.keys(*size), self.shape.values(*size)
        if length:
            for new, old in zip([*k, *v], [*self.k, *self.v], strict=True):
                new[: old.shape[0] - 1, :, : old.shape[2]] = old[:-1]
        self.k, self.v = k, v
