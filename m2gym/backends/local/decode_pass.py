"""One decoding pass of a fixed shape, computed or replayed (`m2gym.backends.local.decode`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from m2gym.backends.local.attention import join, pieces
from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.sampler import Draw, sample
from m2gym.backends.local.shared_nodes import MASKED, SharedNodes
from m2gym.backends.local.store import Row, Store


class Pass:
    """A pass of one shape. ``drawn`` are tokens and logprobs by place, ``logits`` what they were
    drawn from."""

    def __init__(
        self,
        model: HookedModel,
        store: Store,
        shared: SharedNodes,
        places: int,
        own: int,
        common: int,
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
