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
from typing import Any

import torch

from m2gym.backends.local.decode_pass import Pass
from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.sampler import Draw, draw
from m2gym.backends.local.shared_nodes import SharedNodes, power_of_two
from m2gym.backends.local.store import FIRST_LENGTH, Row, Store

SHARED_TOKENS = 32_768
"""Tokens of nodes beyond which attending to all of them for all rows wastes too much; ours."""


class Decoder:
    """Decoding passes over the rows of a store; see the module.

    Args:
        model: whose weights keep their place in memory. store: of the engine.
        capture: replay passes as CUDA graphs.
    """

    def __init__(self, model: HookedModel, store: Store, *, capture: bool) -> None:
        self.model, self.store, self.capture = model, store, capture
        self.shared = SharedNodes(store)
        self.captured, self.works = 0, True
        self._passes: dict[tuple[int, int, int], Pass] = {}
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
            min(power_of_two(places, 1), self.store.places),
            power_of_two(longest, FIRST_LENGTH),
            self.shared.size if any(row.node for row in rows) else 0,
        )
        found = self._passes.get(sizes)
        if found is None:
            found = self._passes[sizes] = Pass(self.model, self.store, self.shared, *sizes)
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

    def _capture(self, found: Pass) -> None:
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
