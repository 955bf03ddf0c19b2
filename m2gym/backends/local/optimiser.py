"""AdamW over fp32 masters of the weights, whatever the model computes in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from m2gym.backends.train_config import TrainSettings
from m2gym.core.errors import InputError

FLOOR = 0.1
"""Share of the rate that a decay ends at; the project's choice."""


def rate(settings: TrainSettings, step: int, begun: int = 0) -> float:
    """Learning rate of update ``step``, from 0; the warm-up begins at update ``begun``.

    >>> rate(TrainSettings(lr=1.0, warmup=4, steps=10), 1)
    0.5
    """
    if step - begun < settings.warmup:
        return settings.lr * (step - begun + 1) / settings.warmup
    if settings.decay == "constant":
        return settings.lr
    done = (step - settings.warmup) / max(1, settings.steps - 1 - settings.warmup)
    left = 1 - done if settings.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.lr * (FLOOR + (1 - FLOOR) * max(0.0, left))


class MasterAdamW:
    """AdamW (arXiv 1711.05101). A 16-bit weight has an fp32 master that is updated and then copied
    into it; gradients of micro-batches are summed in the master's precision, on a CPU in memory
    that is kept from update to update: to get it anew takes more time there than the sums do.

    `collect` after each micro-batch, `step` after the last.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad]
        if not self.weights:
            raise InputError("the model has no weight that is trained")
        self.masters = [p if _wide(p) else p.detach().float().clone() for p in self.weights]
        self._sums: list[torch.Tensor | None] = [None] * len(self.masters)
        self.clip = settings.clip
        self.adamw = torch.optim.AdamW(
            self.masters,
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def collect(self) -> None:
        """Add the weights' gradients to the masters'."""
        for n, (weight, master) in enumerate(zip(self.weights, self.masters, strict=True)):
            if weight is master or weight.grad is None:
                continue
            if master.grad is not None:
                master.grad += weight.grad
            elif (kept := self._sums[n]) is not None:
                master.grad = kept.copy_(weight.grad)
            else:
                master.grad = weight.grad.float()
                self._sums[n] = master.grad if master.is_cpu else None
            weight.grad = None

    def step(self, lr: float) -> float:
        """Update, and clear the gradients; returns their norm before clipping.

        A norm that is not finite updates nothing.
        """
        for group in self.adamw.param_groups:
            group["lr"] = lr
        total = nn.utils.get_total_norm([p.grad for p in self.masters if p.grad is not None])
        norm = float(total)
        if math.isfinite(norm):
            if self.clip is not None and norm > self.clip:
                nn.utils.clip_grads_with_norm_(self.masters, self.clip, total)
            self.adamw.step()
            with torch.no_grad():
                for weight, master in zip(self.weights, self.masters, strict=True):
                    if weight is not master:
                        weight.copy_(master)
        self.adamw.zero_grad(set_to_none=True)
        return norm

    def clear(self) -> None:
        """Forget gradients that were not used, and let their memory go."""
        for weight in self.weights:
            weight.grad = None
        self.adamw.zero_grad(set_to_none=True)
        self._sums = [None] * len(self.masters)

    def reset(self) -> None:
        """Begin anew: moments and their counts are forgotten, the weights stay."""
        self.adamw.state.clear()

    def state(self) -> dict[str, Any]:
        """Masters and moments, for a checkpoint."""
        return {
            "masters": [master.detach().cpu() for master in self.masters],
            "adamw": self.adamw.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; the weights follow."""
        self.put(state["masters"])
        self.adamw.load_state_dict(state["adamw"])

    def put(self, masters: Sequence[torch.Tensor]) -> None:
        """Other values for the masters; the weights follow."""
        with torch.no_grad():
            for weight, master, other in zip(self.weights, self.masters, masters, strict=True):
                master.copy_(other)
                if weight is not master:
                    weight.copy_(master)


def _wide(p: torch.Tensor) -> bool:
    return p.dtype in (torch.float32, torch.float64)
