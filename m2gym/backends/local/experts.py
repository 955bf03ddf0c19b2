"""Experts of small models on a CPU: sorted by expert, padded to the busiest, two batched products.

transformers' own ways call a product for every expert, or gather whole weights for every token;
with few small experts the calls cost more than the arithmetic.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

NAME = "m2gym_padded"
"""Its name in transformers' registry of experts."""

LARGEST = 64
"""Experts beyond which padding to the busiest would waste most of the work; ours."""


def padded_experts(
    self: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """transformers' interface of experts: T x H, T x K, T x K → T x H."""
    experts, _, width = self.gate_up_proj.shape
    tokens, top_k = top_k_index.shape
    expert_P, pair_P = top_k_index.reshape(-1).sort(stable=True)
    counts_E = torch.bincount(expert_P, minlength=experts)
    first_E = counts_E.cumsum(0) - counts_E
    slot_P = torch.arange(tokens * top_k, device=expert_P.device) - first_E[expert_P]
    most = int(counts_E.max())
    place_P = expert_P * most + slot_P
    token_P = pair_P // top_k
    rows = hidden_states.new_zeros(experts * most, width)
    rows = rows.index_copy(0, place_P, hidden_states[token_P])
    gate, up = torch.bmm(rows.view(experts, most, width), self.gate_up_proj.transpose(1, 2)).chunk(
        2, -1
    )
    out = torch.bmm(self.act_fn(gate) * up, self.down_proj.transpose(1, 2)).view(-1, width)
    weight_P = top_k_weights.reshape(-1)[pair_P].to(out.dtype)
    found = torch.zeros_like(hidden_states)
    return found.index_add(0, token_P, (out[place_P] * weight_P[:, None]).to(found.dtype))


def use_padded(model: Any) -> bool:
    """Make a model use it where it fits: plain gated experts, few of them, on the CPU."""
    config = model.config
    fits = (
        getattr(config, "model_type", "") == "minimax_m2"
        and config.num_local_experts <= LARGEST
        and model.device.type == "cpu"
    )
    if fits:
        moe: Any = importlib.import_module("transformers.integrations.moe")
        moe.ExpertsInterface.register(NAME, padded_experts)
        model.set_experts_implementation(NAME)
    return fits
