"""Tiny random models of the transformers library, in float64 throughout.

The library computes norms, the router and eager attention in float32 whatever the dtype; those
parts are replaced by float64 ones of the same mathematics, so that merged and unmerged training can
be compared to float64 rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from m2gym.forge.attention import tree_attention
from m2gym.forge.layout import Layout

VOCABULARY = 61


class DoubleRouter(nn.Module):
    """Sigmoid router of MiniMax-M2: top-k of p + bias, weights p without the bias, normalised."""

    def __init__(self, gate: Any, top_k: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(gate.weight.detach().double().clone())
        self.top_k = top_k

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
        p = torch.sigmoid(hidden @ self.weight.T)
        index = torch.topk(p + bias, self.top_k, dim=-1).indices
        weight = p.gather(1, index)
        return p, weight / weight.sum(-1, keepdim=True), index


def attention(
    module: nn.Module,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: Layout | None = None,
    backend: str = "dense",
    **_: Any,
) -> tuple[torch.Tensor, None]:
    if layout is not None:
        out = tree_attention(q[0], k[0], v[0], layout, scale=scaling, backend=backend)[None]
    else:
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.transpose(-1, -2) * scaling
        if attention_mask is None:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        else:
            allowed = attention_mask
        out = torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1) @ v
    return out.transpose(1, 2).contiguous(), None


def tiny_model(kind: str, seed: int = 0, layers: int = 2) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is in extra 'train'")
    transformers.AttentionInterface.register("m2gym_tree_test", attention)
    torch.manual_seed(seed)
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "attn_implementation": "m2gym_tree_test",
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind == "llama":
        config = transformers.LlamaConfig(**common)
    else:
        config = transformers.MiniMaxM2Config(
            **common,
            num_local_experts=6,
            num_experts_per_tok=2,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            },
        )
    model = transformers.AutoModelForCausalLM.from_config(config).double()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.shape[0], eps=1e-6, dtype=torch.float64)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                setattr(module, name, norm)
            elif type(child).__name__.endswith("TopKRouter"):
                setattr(module, name, DoubleRouter(child, 2))
            elif type(child).__name__ == "MiniMaxM2Experts":
                config._experts_implementation = "eager"
    return model.eval()


def merged_logits(model: Any, tree: Any, backend: str = "dense") -> torch.Tensor:
    out = model(
        input_ids=torch.as_tensor(tree.ids_T)[None],
        position_ids=torch.as_tensor(tree.layout.position_T)[None],
        layout=tree.layout,
        backend=backend,
        use_cache=False,
    )
    return out.logits[0]


def plain_logits(model: Any, ids_T: np.ndarray) -> torch.Tensor:
    return model(input_ids=torch.as_tensor(ids_T)[None], use_cache=False).logits[0]


def gradients(model: Any) -> list[torch.Tensor]:
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found
