"""Tiny random models of transformers, of the shapes the backend must serve."""

from __future__ import annotations

from typing import Any

import pytest
import torch

VOCABULARY = 97


def tiny(kind: str = "llama", *, seed: int = 0, vocabulary: int = VOCABULARY, **own: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is in extra 'train'")
    torch.manual_seed(seed)
    common = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
        **own,
    }
    if kind == "llama":
        config = transformers.LlamaConfig(**common)
    elif kind == "qwen3_moe":
        config = transformers.Qwen3MoeConfig(
            **common, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
        )
    else:
        config = transformers.MiniMaxM2Config(
            **common,
            num_local_experts=4,
            num_experts_per_tok=2,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            },
        )
    return transformers.AutoModelForCausalLM.from_config(config).eval()
