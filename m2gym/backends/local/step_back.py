"""Stepping back, at the end of a stage, to the weights that needed the examples least.

Few-shot updates can drift: answers with examples stay right while their surprise without examples
(``nll0``) rises, and a stage without examples that begins there never finds a right answer. So the
weights of the lowest ``nll0`` are kept. This project's; ICRL has none of it.
"""

from __future__ import annotations

from typing import Any

import torch

from m2gym.backends.local.optimiser import MasterAdamW


class StepBack:
    """Keeps the best weights of ``optimiser``; see the module."""

    def __init__(self, optimiser: MasterAdamW) -> None:
        self.optimiser = optimiser
        self.lowest = self.last = float("inf")
        self.kept: list[torch.Tensor] = []

    def see(self, nll0: float) -> None:
        """Hear of the present weights."""
        self.last = nll0
        if nll0 < self.lowest:
            self.lowest = nll0
            self.kept = [master.detach().clone() for master in self.optimiser.masters]

    def back(self, margin: float) -> bool:
        """Return to the best weights where the last ones seen lie more than ``margin`` nats above;
        whether that was so."""
        if not self.last > self.lowest + margin:
            return False
        self.optimiser.put(self.kept)
        self.last = self.lowest
        return True

    def forget(self) -> None:
        """No stage that may step back is left: the weights kept are let go."""
        self.kept = []

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"lowest": self.lowest, "last": self.last, "kept": [k.cpu() for k in self.kept]}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.lowest, self.last = state["lowest"], state["last"]
        device = self.optimiser.masters[0].device
        self.kept = [kept.to(device) for kept in state["kept"]]
