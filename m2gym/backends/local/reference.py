"""The weights that a KL term is to: those at the beginning of the run or of a stage."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from m2gym.backends.local.hooked import HookedModel


class Reference:
    """The model's weights as they are now.

    A frozen copy; of a model with adapters only these are copied. Untouched adapters are the base
    itself, which costs nothing.
    """

    def __init__(self, model: HookedModel) -> None:
        self.model = model
        self.adapted = hasattr(model.model, "disable_adapter")
        self.saved: list[torch.Tensor] | None = None
        self.frozen: HookedModel | None = None
        if not self.adapted:
            copied = copy.deepcopy(model.base).eval().requires_grad_(False)
            self.frozen = HookedModel(copied)

    def reset(self) -> None:
        """From now on the weights of this moment."""
        with torch.no_grad():
            if self.frozen is not None:
                for kept, now in zip(
                    self.frozen.base.parameters(), self.model.base.parameters(), strict=True
                ):
                    kept.copy_(now)
                self.frozen.refresh()
            else:
                self.saved = [p.detach().clone() for p in self._trained()]

    @contextmanager
    def weights(self) -> Iterator[HookedModel]:
        """The model with the reference's weights."""
        if self.frozen is not None:
            yield self.frozen
        elif self.saved is None:
            with self.model.model.disable_adapter():
                yield self.model
        else:
            trained = self._trained()
            current = [p.data for p in trained]
            # The data are changed for others and back: a graph that waits for its backward pass
            # holds these parameters, and sees what it saw.
            _put(trained, self.saved)
            try:
                yield self.model
            finally:
                _put(trained, current)

    def state(self) -> Any:
        """For a checkpoint; ``None`` where the run's first weights are meant."""
        if self.frozen is not None:
            return [p.detach().cpu() for p in self.frozen.base.parameters()]
        return None if self.saved is None else [p.cpu() for p in self.saved]

    def load(self, state: Any) -> None:
        """The inverse of `state`."""
        if state is None:
            self.saved = None
            return
        with torch.no_grad():
            if self.frozen is not None:
                for kept, saved in zip(self.frozen.base.parameters(), state, strict=True):
                    kept.copy_(saved)
                self.frozen.refresh()
            else:
                device = self.model.device
                self.saved = [saved.to(device) for saved in state]

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.model.parameters() if p.requires_grad]


def _put(weights: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.data = value
