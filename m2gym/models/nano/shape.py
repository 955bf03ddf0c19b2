"""The architecture of m2-nano: MiniMax-M2's [M2, arXiv 2605.26494, §2] in small.

What is M2's: sigmoid router with a bias that only chooses, RMS norm over the whole flattened
queries and keys, rotary positions on half of each head, every layer a mixture of experts without a
shared one, pre-norm. What differs: sizes, tied embeddings, theta (contexts are short).
"""

from __future__ import annotations

import importlib
from typing import Any

VOCABULARY = 1024

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 88,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.5,
    },
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
}
"""Settings of transformers' `MiniMaxM2Config`."""

DENSE: dict[str, Any] = {**SHAPE, "num_local_experts": 1, "num_experts_per_tok": 1}
DENSE["intermediate_size"] = SHAPE["intermediate_size"] * SHAPE["num_experts_per_tok"]
"""The dense model of as many active parameters: one expert, always chosen, of weight 1."""


def build(shape: dict[str, Any] = SHAPE) -> Any:
    """A model of this shape with random weights in fp32."""
    transformers: Any = importlib.import_module("transformers")
    config = transformers.MiniMaxM2Config(**shape)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return model.float()


def count(model: Any) -> tuple[int, int]:
    """Parameters in all, and those that one token uses."""
    config = model.config
    whole = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    used = experts * config.num_experts_per_tok // config.num_local_experts
    return whole, whole - experts + used
