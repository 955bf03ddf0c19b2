"""Decoding in fixed shapes, so that a GPU replays a pass as one captured graph.

::

    place 0 1 2 3      every place of the batch is a row's place in the store; one that nobody
          a b · c      runs in computes too, and writes where nobody reads
    own   ▓▓▓░ ▓▓░░    its first 64, 128, 256 … tokens, those beyond its length masked
    shared  node 1 │ node 2 │ ░░     all nodes that rows hang on, side by side, for all rows; those
                                     that are not a row's are masked

A pass is known by three sizes: places, own tokens, shared tokens, each rounded up to a power of
two. It is computed plainly the first time its sizes are met, captured the second time, and replayed
from then on, also under new weights, prompts and rows. Sampling is a part of it; one small tensor
goes to the device and one comes back.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from m2gym.backends.local.attention import join, pieces
from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.sampler import Draw, draw, sample
from m2gym.backends.local.store import FIRST_LENGTH, Node, Row, Store

SHARED_TOKENS = 32_768
"""Tokens of nodes beyond which attending to all of them for all rows wastes too much; ours."""

MASKED = -3e4
"""Added to the scores of what a row does not see: finite (in 16 bits too), so that a row that sees
nothing has no NaN but a weight of 0 when it is joined."""


class Decoder:
    """Decoding passes over the rows of a store; see the module.

    Args:
        model: whose weights keep their place in memory. store: of the engine.
        capture: replay passes as CUDA graphs.
    """

    def __init__(self, model: HookedModel, store: Store, *, capture: bool) -> None:
        self.model, self.store, self.capture = model, store, capture
        self.shared = _Shared(store)
        self.captured, self.works = 0, True
        self._passes: dict[tuple[int, int, int], _Pass] = {}
        self._slab: torch.Tensor | None = None
        self._pool: Any = None

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether a pass over these rows, all of whose nodes are filled, can be made here."""
        if not self.works:
            return False
        nodes = {id(node): node for row in rows for node in row.prefix()}
        return sum(len(node.ids) for node in nodes.values()) <= SHARED_TOKENS

    def run(
        self, rows: Sequence[Row], ids: Sequence[int], draws: Sequence[Draw]
    ) -> tuple[list[int], list[float]]:
        """Feed each row a token and draw its next; the rows hold what they were fed."""
        longest = max(len(row.ids) for row in rows) + 1
        self.store.reserve(longest)
        moved = self.shared.show(rows)
        if moved or self._slab is not self.store.k[0]:
            self._passes.clear()
            self._slab = self.store.k[0]
            self._pool = torch.cuda.graph_pool_handle() if self.capture else None
        places = max(row.slot for row in rows) + 1
        sizes = (
            min(_power(places, 1), self.store.places),
            _power(longest, FIRST_LENGTH),
            self.shared.size if any(row.node for row in rows) else 0,
        )
        found = self._passes.get(sizes)
        if found is None:
            found = self._passes[sizes] = _Pass(self.model, self.store, self.shared, *sizes)
        found.fill(rows, ids, draws)
        if self.capture and found.met and not found.captured:
            self._capture(found)
        found.compute()
        slots = [row.slot for row in rows]
        if any(how.cut for how in draws):
            tokens, logprobs = draw(found.logits[slots], draws)
        else:
            drawn = found.drawn.tolist()
            tokens = [int(drawn[0][n]) for n in slots]
            logprobs = [drawn[1][n] for n in slots]
        for row, token in zip(rows, ids, strict=True):
            row.ids.append(token)
        self.store.computed += len(rows)
        return tokens, logprobs

    def forget(self) -> None:
        """The store was cleared."""
        self.shared.forget()

    def _capture(self, found: _Pass) -> None:
        try:
            found.capture(self._pool)
            self.captured += 1
        except RuntimeError as error:
            self.works = False
            warnings.warn(
                f"{type(self.model.base).__name__} cannot be captured as a CUDA graph ({error}); "
                "its passes are launched one kernel at a time, which is slower",
                stacklevel=2,
            )


class _Shared:
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
            self.capacity = _power(max(total, self.capacity), FIRST_LENGTH)
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
        self.size = _power(total, FIRST_LENGTH) if total else 0
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


class _Pass:
    """A pass of one shape. ``drawn`` are tokens and logprobs by place, ``logits`` what they were
    drawn from."""

    def __init__(
        self, model: HookedModel, store: Store, shared: _Shared, places: int, own: int, common: int
    ) -> None:
        self.model, self.store, self.shared = model, store, shared
        self.places, self.own, self.common = places, own, common
        device = store.shape.device
        self.whole = torch.zeros((4, places), dtype=torch.long, device=device)
        self.real = torch.zeros((2, places), dtype=torch.float64, device=device)
        self.drawn = torch.zeros((2, places), dtype=torch.float64, device=device)
        self.logits = torch.empty(0)
        self._graph: torch.cuda.CUDAGraph | None = None
        self.met = False

    @property
    def captured(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    def fill(self, rows: Sequence[Row], ids: Sequence[int], draws: Sequence[Draw]) -> None:
        """Put what this pass is about in its place on the device."""
        whole = torch.zeros((4, self.places), dtype=torch.long)
        whole[3] = self.store.spare
        real = torch.zeros((2, self.places), dtype=torch.float64)
        slots = [row.slot for row in rows]
        position = [row.base + len(row.ids) for row in rows]
        whole[:, slots] = torch.tensor([list(ids), position, [len(r.ids) for r in rows], slots])
        real[:, slots] = torch.tensor(
            [[how.temperature for how in draws], [how.u for how in draws]], dtype=torch.float64
        )
        self.whole.copy_(whole)
        self.real.copy_(real)

    def capture(self, pool: Any) -> None:
        """Make the graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._compute()
        self._graph = graph

    def compute(self) -> None:
        """Compute it, by its graph where there is one."""
        if self._graph is None:
            self._compute()
        else:
            self._graph.replay()
        self.met = True

    def _compute(self) -> None:
        ids_B, position_B, self._at_B, self._place_B = self.whole.unbind(0)
        device, kind = self.whole.device, self.store.shape.dtype
        beyond = torch.arange(self.own, device=device)[None] > self._at_B[:, None]
        mask = torch.zeros(beyond.shape, dtype=kind, device=device).masked_fill_(beyond, MASKED)
        self._own_mask = mask.repeat_interleave(self.store.shape.heads, 0)[:, None]
        self._common_mask: torch.Tensor | None = None
        hidden_B_H = self.model.hidden(ids_B, position_B, self._attend)
        self.logits = self.model.logits(hidden_B_H)
        token_B, logprob_B = sample(self.logits, self.real[0], self.real[1])
        self.drawn[0], self.drawn[1] = token_B, logprob_B

    def _attend(
        self,
        layer: int,
        q_H_B_D: torch.Tensor,
        k_K_B_D: torch.Tensor,
        v_K_B_D: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """`m2gym.backends.local.hooked.Attend` for this pass."""
        keys, places, width = k_K_B_D.shape[0], self.places, q_H_B_D.shape[-1]
        group = q_H_B_D.shape[0] // keys
        own_k, own_v = self.store.k[layer], self.store.v[layer]
        own_k[self._place_B, :, self._at_B] = k_K_B_D.transpose(0, 1)
        own_v[self._place_B, :, self._at_B] = v_K_B_D.transpose(0, 1)
        q_B_K_G_D = q_H_B_D.view(keys, group, places, width).permute(2, 0, 1, 3)
        found = pieces(
            q_B_K_G_D.reshape(-1, group, width),
            own_k[:places, :, : self.own].flatten(0, 1),
            own_v[:places, :, : self.own].flatten(0, 1),
            scale,
            self._own_mask,
        )
        out, lse = (torch.unflatten(x, 0, (places, keys)) for x in found)
        parts = [(out, lse)]
        if self.common:
            if self._common_mask is None:
                mask = self.shared.mask[:places, : self.common]
                self._common_mask = mask.repeat_interleave(group, 0)[None]
            found = pieces(
                q_B_K_G_D.transpose(0, 1).reshape(keys, -1, width),
                self.shared.k[layer][:, : self.common],
                self.shared.v[layer][:, : self.common],
                scale,
                self._common_mask,
            )
            out, lse = (torch.unflatten(x, 2, (places, group)) for x in found)
            parts.append((out.permute(2, 0, 1, 3, 4), lse.permute(2, 0, 1, 3)))
        out_B_K_G_D = join(parts, 2).to(q_H_B_D.dtype)
        return out_B_K_G_D.permute(1, 2, 0, 3).reshape(q_H_B_D.shape[0], places, -1)


def _power(least: int, first: int) -> int:
    """The first of ``first``, twice that, four times … that is at least ``least``."""
    found = first
    while found < least:
        found *= 2
    return found
