"""Balance of the experts without an auxiliary loss.

M2 keeps a bias that only chooses experts and says nothing of how it is updated. The rule here is
that of arXiv 2408.15664 (loss-free balancing): after each step, for every layer

    b_e += u * sign(mean load - load_e),   then b is re-centred to mean 0

with ``u`` scaled along the learning rate: the project's choice.
"""

from __future__ import annotations

from typing import Any

import torch

SPEED = 1e-2
"""u at the highest learning rate: the project's choice."""


@torch.no_grad()
def balance(model: Any, load_L_E: torch.Tensor, speed: float) -> None:
    """Move the biases of all layers by the loads of the last step."""
    mean_L = load_L_E.mean(1, keepdim=True)
    for layer, step_E in zip(model.model.layers, torch.sign(mean_L - load_L_E), strict=True):
        bias = layer.mlp.e_score_correction_bias
        bias += speed * step_E
        bias -= bias.mean()


def use(load_L_E: torch.Tensor) -> dict[str, float]:
    """The busiest expert's load over the mean (worst and mean layer) and experts under a tenth of
    it."""
    share_L_E = load_L_E / load_L_E.mean(1, keepdim=True)
    worst_L = share_L_E.max(1).values
    return {
        "load_max": float(worst_L.max()),
        "load_mean": float(worst_L.mean()),
        "idle": float((share_L_E < 0.1).sum()),
    }
