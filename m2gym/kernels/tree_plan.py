"""How a token tree is cut: few full rectangles, and tables of the small ones for one kernel.

Nodes lie in preorder, so a node's first child follows it and every subtree is one run of rows.
Chains of first children are *paths*. A path attends to itself causally, one square; the rows
that branch off at a node attend to the path up to that node, one dense rectangle:

    rows          0   A   B   C   D        A's children: B, D (first child B);  B's child: C
    squares       [A  B   C] [D]           paths A-B-C and D
    rectangles    D x A                    nothing is computed twice or masked away

Every row is in one square and in one rectangle for each path above its own. Put the heaviest
child first: then there are the fewest levels. Large rectangles get a library call each; the small
ones become two tables, which ``tree_kernel`` walks: by query tile (which keys a tile reads) and by
key tile (which queries read it), so that neither direction needs atomics.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from m2gym.kernels.support import KernelRefusal

_KERNEL = "tree_attention"
# The fewest queries for which a key tile is cut.
_PIECE = 1024


@dataclass(frozen=True)
class Rectangle:
    """Query rows [first, last) on key rows [key_first, key_last).

    ``level`` counts the paths above: rectangles of one level share no query row.
    """

    first: int
    last: int
    key_first: int
    key_last: int
    causal: bool
    level: int

    @property
    def sides(self) -> tuple[int, int]:
        return self.last - self.first, self.key_last - self.key_first

    @property
    def area(self) -> int:
        return self.sides[0] * self.sides[1]


def rectangles(starts: Sequence[int], parents: Sequence[int]) -> list[Rectangle]:
    """The squares and rectangles of a tree (or a forest) in preorder.

    >>> [(r.first, r.last, r.key_first, r.key_last) for r in rectangles([0, 4, 6, 9], [-1, 0, 0])]
    [(0, 6, 0, 6), (6, 9, 6, 9), (6, 9, 0, 4)]

    Args:
        starts: first row of every node, then the number of rows.
        parents: every node's parent, -1 for a root.

    Raises:
        KernelRefusal: the nodes are not in preorder, a node is empty, or the first is not at 0.
    """
    count = len(parents)
    if len(starts) != count + 1 or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
        raise KernelRefusal(
            f"{_KERNEL}: starts must rise from 0 and hold one more entry than parents, got "
            f"{len(starts)} from {list(starts[:1])} for {count} nodes"
        )
    head, level = list(range(count)), [0] * count
    above: list[int] = []
    for node, parent in enumerate(parents):
        while above and above[-1] != parent:
            above.pop()
        if parent >= 0 and not above:
            raise KernelRefusal(
                f"{_KERNEL}: nodes must be in preorder (a node, then each child's whole subtree); "
                f"node {node} does not lie under its parent {parent}"
            )
        above.append(node)
        if parent >= 0:
            first_child = parent == node - 1
            head[node] = head[parent] if first_child else node
            level[node] = level[parent] if first_child else level[parent] + 1
    after = _after(parents)
    squares: list[Rectangle] = []
    dense: list[Rectangle] = []
    seen: set[int] = set()
    for node, parent in enumerate(parents):
        if head[node] != node:
            continue
        tail = node
        while tail + 1 < count and head[tail + 1] == node:
            tail += 1
        first, last = starts[node], starts[tail + 1]
        squares.append(Rectangle(first, last, first, last, True, level[node]))
        if parent >= 0 and parent not in seen:
            seen.add(parent)
            dense.append(
                Rectangle(
                    first, starts[after[parent]], starts[head[parent]], starts[parent + 1], False,
                    level[parent],
                )
            )  # fmt: skip
    return squares + sorted(dense, key=lambda r: r.level)


def _after(parents: Sequence[int]) -> list[int]:
    """The node that follows each node's subtree."""
    after = list(range(1, len(parents) + 1))
    for node in range(len(parents) - 1, -1, -1):
        if parents[node] >= 0:
            after[parents[node]] = max(after[parents[node]], after[node])
    return after


@dataclass(frozen=True)
class Cuts:
    """Tile sizes of the kernels: query tokens, key rows, key rows at the end of a run.

    ``d_key``: query rows of a step, key rows. ``product``: query tokens of a tile whose d_query is
    one product with the kept dS; how many rows of dS may be kept, 0 for none.
    """

    forward: tuple[int, int, int]
    d_query: tuple[int, int, int]
    d_key: tuple[int, int]
    product: tuple[int, int]


@dataclass(frozen=True)
class Tables:
    """Work lists of the kernels, int32 on the device, heaviest item first.

    Attributes:
        forward, d_query: (items, 7) a query tile: first and last token, first row of its own
            path (its last token where the square is not the kernel's), slices of ``blocks`` and
            of ``tails``. ``blocks_…``: first rows of whole key blocks; ``tails_…``: (first, last)
            rows of the shorter ones.
        d_key: (items, 6) a key tile and a run of queries: first and last row of each, its number
            among the parts to be joined (-1: it is the tile's only one), the row of dS where its
            first query's lies.
        joins: (tiles, 4) a key tile with several runs: first and last row, a slice of the parts.
        parts: how many parts there are.
        kept: rows of dS, in blocks of a step's queries; 0: it is not kept, ``d_query`` takes three
            products. bases: (T,) at a key tile's first row, what takes a query to its row of dS.
        reach: (T,) the row at which a row's subtree ends: row q sees row k if k ≤ q < reach[k].
    """

    forward: torch.Tensor
    blocks_forward: torch.Tensor
    tails_forward: torch.Tensor
    d_query: torch.Tensor
    blocks_d_query: torch.Tensor
    tails_d_query: torch.Tensor
    d_key: torch.Tensor
    joins: torch.Tensor
    parts: int
    kept: int
    bases: torch.Tensor
    reach: torch.Tensor


@dataclass(frozen=True)
class TreePlan:
    """The library's calls (each one rectangle, or equal squares in a row) and the kernel's work."""

    calls: tuple[tuple[Rectangle, int], ...]
    tables: Tables | None


def _query_tables(
    squares: list[Rectangle],
    dense: list[Rectangle],
    mine: set[Rectangle],
    tokens: int,
    keys: int,
    short: int,
) -> tuple[list[list[int]], list[int], list[list[int]]]:
    items: list[tuple[int, list[int]]] = []
    blocks: list[int] = []
    tails: list[list[int]] = []
    open_: list[Rectangle] = []
    waiting = sorted(dense, key=lambda r: (r.first, -r.last), reverse=True)
    for path in sorted(squares, key=lambda r: r.first):
        while open_ and open_[-1].last <= path.first:
            open_.pop()
        while waiting and waiting[-1].first <= path.first:
            open_.append(waiting.pop())
        first_block, first_tail = len(blocks), len(tails)
        for r in open_:
            whole = (r.key_last - r.key_first) // keys * keys
            blocks += range(r.key_first, r.key_first + whole, keys)
            for start in range(r.key_first + whole, r.key_last, short):
                tails.append([start, min(start + short, r.key_last)])
        above = len(blocks) - first_block + len(tails) - first_tail
        own = path in mine
        if not own and not above:
            continue
        for first in range(path.first, path.last, tokens):
            last = min(first + tokens, path.last)
            work = above + (-(-(last - path.first) // keys) if own else 0)
            items.append(
                (-work, [first, last, path.first if own else last, first_block, len(blocks),
                         first_tail, len(tails)])
            )  # fmt: skip
    items.sort()
    return [item for _, item in items], blocks, tails


@dataclass
class _KeyTables:
    items: list[list[int]]
    joins: list[list[int]]
    bases: dict[int, int]
    parts: int = 0
    kept: int = 0


def _key_runs(
    squares: list[Rectangle], dense: list[Rectangle], mine: set[Rectangle], keys: int
) -> Iterator[tuple[int, int, list[list[int]]]]:
    """Every key tile with the runs of queries that read it."""
    by_path: dict[int, list[Rectangle]] = {}
    for r in dense:
        by_path.setdefault(r.key_first, []).append(r)
    for path in squares:
        here = sorted(by_path.get(path.first, []), key=lambda r: r.first)
        for first in range(path.first, path.last, keys):
            runs = [[first, path.last]] if path in mine else []
            for r in here:
                if r.key_last <= first:
                    continue
                if runs and runs[-1][1] == r.first:
                    runs[-1][1] = r.last
                else:
                    runs.append([r.first, r.last])
            if runs:
                yield first, min(first + keys, path.last), runs


def _key_tables(
    squares: list[Rectangle], dense: list[Rectangle], mine: set[Rectangle], rows: int, keys: int
) -> _KeyTables:
    """Key tiles, those that many queries read cut into pieces.

    The root's keys are read by the whole tree: left in one piece they are still at work when all
    other programs have ended. No piece has more than a 256th of all queries read, or ``_PIECE``.
    """
    tiles = list(_key_runs(squares, dense, mine, keys))
    most = max(_PIECE, sum(b - a for _, _, runs in tiles for a, b in runs) // 256)
    tables = _KeyTables([], [], {})
    for first, last, runs in tiles:
        pieces = []
        for begin, end in runs:
            tables.bases[first] = tables.kept - begin
            count = -(-(end - begin) // most)
            each = -(-(end - begin) // (count * rows)) * rows
            pieces += [
                [first, last, at, min(at + each, end), -1, tables.kept + at - begin]
                for at in range(begin, end, each)
            ]
            tables.kept += -(-(end - begin) // rows) * rows
        if len(pieces) > 1:
            for part, piece in enumerate(pieces, tables.parts):
                piece[4] = part
            tables.joins.append([first, last, tables.parts, tables.parts + len(pieces)])
            tables.parts += len(pieces)
        tables.items += pieces
    tables.items.sort(key=lambda piece: piece[2] - piece[3])
    return tables


def _tables(
    starts: Sequence[int], parents: Sequence[int], found: list[Rectangle], mine: set[Rectangle],
    cuts: Cuts, device: torch.device,
) -> Tables:  # fmt: skip
    after = _after(parents)
    sizes = np.diff(np.asarray(starts))
    reach = np.repeat(np.asarray([starts[a] for a in after]), sizes).astype(np.int32)
    squares = [r for r in found if r.causal]
    dense = [r for r in found if not r.causal and r in mine]

    def move(rows: object, width: int = 1) -> torch.Tensor:
        table = np.asarray(rows, dtype=np.int32).reshape(-1, width)
        return torch.from_numpy(table if len(table) else np.zeros((1, width), np.int32)).to(device)

    d_key = _key_tables(squares, dense, mine, *cuts.d_key)
    tokens, most = cuts.product
    # A tile has one run of queries, so one base, where the kernel does the whole tree.
    kept = d_key.kept if len(mine) == len(found) and d_key.kept <= most else 0
    bases = np.zeros(starts[-1], np.int32)
    bases[list(d_key.bases)] = list(d_key.bases.values())
    d_query_cuts = (tokens, cuts.d_key[1], cuts.d_key[1]) if kept else cuts.d_query
    forward = _query_tables(squares, dense, mine, *cuts.forward)
    d_query = forward
    if d_query_cuts != cuts.forward:
        d_query = _query_tables(squares, dense, mine, *d_query_cuts)
    return Tables(
        move(forward[0], 7), move(forward[1]), move(forward[2], 2),
        move(d_query[0], 7), move(d_query[1]), move(d_query[2], 2),
        move(d_key.items, 6), move(d_key.joins, 4), d_key.parts, kept, move(bases), move(reach),
    )  # fmt: skip


def _runs(squares: list[Rectangle]) -> list[tuple[Rectangle, int]]:
    """Equal squares that follow each other, counted."""
    runs: list[tuple[Rectangle, int]] = []
    for square in squares:
        if runs:
            first, count = runs[-1]
            side = first.sides[0]
            if square.sides[0] == side and square.first == first.first + count * side:
                runs[-1] = (first, count + 1)
                continue
        runs.append((square, 1))
    return runs


@dataclass(frozen=True)
class Costs:
    """What the library costs beside what it saves, in pairs of a rectangle.

    Measured on an H100 with 48 heads of 128 (docs/kernels.md): the kernel takes 0.29 ns a pair,
    cuDNN 0.16; so a pair saves 0.13 ns, and a call that takes 0.4 ms more than its pairs costs as
    much as 3 million.

    Attributes:
        call: of a call; copy: of each further equal square in it.
        row: of every query row of a rectangle, whose output is merged and gradient added.
        mixed: of every row of the tree when the kernel goes on from what the library did.
    """

    call: int = 3_000_000
    copy: int = 900_000
    row: int = 190
    mixed: int = 480


def _pairs(r: Rectangle) -> int:
    return r.area // 2 if r.causal else r.area


def _worth(found: list[Rectangle], total: int, least: int, costs: Costs) -> list[Rectangle]:
    """The rectangles that the library does cheaper, merging counted."""
    chosen: list[Rectangle] = []
    gain = 0
    squares = sorted((r for r in found if r.causal), key=lambda r: r.first)
    runs = _runs(squares) + [(r, 1) for r in found if not r.causal]
    for r, copies in runs:
        rows = 0 if r.causal else r.sides[0]
        saved = copies * (_pairs(r) - costs.copy) - costs.call + costs.copy - costs.row * rows
        if saved > 0 and min(r.sides) >= least:
            gain += saved
            side = r.sides[0]
            chosen += [
                s for s in squares if r.first <= s.first < r.first + copies * side
            ] * r.causal
            chosen += [r] * (not r.causal)
    if len(chosen) < len(found) and gain < costs.mixed * total:
        return []
    return chosen


@functools.lru_cache(maxsize=16)
def plan(
    starts: tuple[int, ...], parents: tuple[int, ...], large: int | None, least: int, cuts: Cuts,
    device: torch.device,
) -> TreePlan:  # fmt: skip
    """The plan of a tree, kept for the layers that ask again.

    Args:
        large: rectangles of at least this many pairs are the library's (half a square's area);
            None: those that ``Costs`` says it does cheaper.
        least: the shortest side the library takes.
    """
    found = rectangles(starts, parents)
    if large is None:
        theirs = _worth(found, starts[-1], least, Costs())
    else:
        theirs = [r for r in found if _pairs(r) >= large and min(r.sides) >= least]
    mine = set(found) - set(theirs)
    squares = sorted((r for r in theirs if r.causal), key=lambda r: r.first)
    calls = _runs(squares) + [(r, 1) for r in theirs if not r.causal]
    tables = _tables(starts, parents, found, mine, cuts, device) if mine else None
    return TreePlan(tuple(calls), tables)
