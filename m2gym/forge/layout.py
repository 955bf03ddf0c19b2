"""Layout of a prefix tree in one row: nodes depth-first, so that descendants are contiguous.

::

    root A ─┬─ B ─┬─ D          row:   A A A  B B  D D D  E  C C
            │     └─ E          node:  0      1    2      3  4
            └─ C                reach of B: the end of E; B attends to A and itself,
                                and [end of B, reach of B) is exactly what attends to B

Token i may attend to token j exactly when ``j <= i < reach[node of j]``. So attention over the tree
is, for every node, one causal block over itself and one dense rectangle (all its descendants) x
(the node). Several roots make a forest: they never attend to one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from m2gym.core.errors import InputError

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """Nodes of a forest in depth-first order; offsets are row indices.

    ``start_N``, ``end_N``: a node's own tokens. ``parent_N``: index of the parent node, -1 at a
    root. ``reach_N``: end of the last descendant.
    """

    start_N: Ints
    end_N: Ints
    parent_N: Ints
    reach_N: Ints

    @classmethod
    def from_parents(cls, parents: Sequence[int] | Ints, lengths: Sequence[int] | Ints) -> Layout:
        """Lay out nodes given in depth-first order; `InputError` for a cycle or another order.

        >>> Layout.from_parents([-1, 0, 1, 1, 0], [3, 2, 3, 1, 2]).reach_N.tolist()
        [11, 9, 8, 9, 11]
        """
        parent_N = np.asarray(parents, dtype=np.int64)
        length_N = np.asarray(lengths, dtype=np.int64)
        if parent_N.shape != length_N.shape or parent_N.ndim != 1:
            raise InputError(
                f"expected one length a node, got {parent_N.shape} parents, {length_N.shape}"
            )
        if (length_N < 1).any():
            raise InputError(f"node {int(np.argmin(length_N))} is empty; every node holds a token")
        end_N = np.cumsum(length_N)
        reach_N = end_N.copy()
        open_nodes: list[int] = []
        for node, parent in enumerate(parent_N.tolist()):
            if not -1 <= parent < node:
                raise InputError(
                    f"node {node} has parent {parent}: a parent comes before its children, so the "
                    f"nodes hold a cycle, an unknown node or are not in depth-first order"
                )
            while open_nodes and open_nodes[-1] != parent:
                open_nodes.pop()
            if parent >= 0 and not open_nodes:
                raise InputError(
                    f"node {node} follows another branch than its parent {parent}: not depth-first"
                )
            open_nodes.append(node)
        for node in range(len(parent_N) - 1, -1, -1):
            parent = int(parent_N[node])
            if parent >= 0:
                reach_N[parent] = max(reach_N[parent], reach_N[node])
        return cls(end_N - length_N, end_N, parent_N, reach_N)

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return int(self.end_N[-1]) if len(self.end_N) else 0

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.start_N)

    @cached_property
    def node_T(self) -> Ints:
        """Node of every token."""
        return np.repeat(np.arange(self.nodes), self.end_N - self.start_N)

    @cached_property
    def reach_T(self) -> Ints:
        """For every token, the end of those that attend to it."""
        return self.reach_N[self.node_T]

    @cached_property
    def depth_N(self) -> Ints:
        """Position of every node's first token: the tokens of its ancestors."""
        depth_N = np.zeros(self.nodes, dtype=np.int64)
        for node, parent in enumerate(self.parent_N.tolist()):
            if parent >= 0:
                depth_N[node] = depth_N[parent] + self.end_N[parent] - self.start_N[parent]
        return depth_N

    @cached_property
    def position_T(self) -> Ints:
        """Position of every token, continued from the parent."""
        offset_N = self.depth_N - self.start_N
        return np.arange(self.tokens) + offset_N[self.node_T]

    @cached_property
    def previous_T(self) -> Ints:
        """Row index of every token's predecessor, -1 at a root's first: the last parent position
        before the first token of a branch."""
        previous_T = np.arange(self.tokens) - 1
        last_N = np.where(self.parent_N >= 0, self.end_N[self.parent_N] - 1, -1)
        previous_T[self.start_N] = last_N
        return previous_T

    @property
    def pairs(self) -> int:
        """Query-key pairs that attention computes: the measure of its work."""
        length_N = self.end_N - self.start_N
        return int(np.sum(length_N * self.depth_N + length_N * (length_N + 1) // 2))
