# mypy: disable-error-code="no-untyped-call"
"""A whole M2 decoder layer on the kernels, beside transformers' best setting."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch

from m2gym.kernels.bench.measure import Row, extra_gb, median_ms, row


def bench_layer() -> Iterator[Row]:
    """A whole M2 decoder layer, forward and backward, at four rows of 4,096 tokens."""
    from transformers import MiniMaxM2Config
    from transformers.models.minimax_m2 import modeling_minimax_m2 as m2

    from m2gym.kernels.register import fuse_norms, fuse_rotary, register

    register()
    for how, attention, fused in (
        ("m2_triton", "m2_tree", "norms and rotary"), ("m2_triton", "sdpa", "norms and rotary"),
        ("m2_triton", "sdpa", "norms"), ("m2_triton", "sdpa", ""), ("grouped_mm", "sdpa", ""),
    ):  # fmt: skip
        config = MiniMaxM2Config(
            hidden_size=3072, intermediate_size=1536, num_local_experts=256,
            num_experts_per_tok=8, num_attention_heads=48, num_key_value_heads=8, head_dim=128,
            num_hidden_layers=1, vocab_size=256, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        config._attn_implementation = attention
        config._experts_implementation = how
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            layer = m2.MiniMaxM2DecoderLayer(config, 0)
            rope = m2.MiniMaxM2RotaryEmbedding(config)
        torch.set_default_dtype(torch.float32)
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.02) if p.dim() > 1 else torch.nn.init.ones_(p)
        name = f"{how}, {attention}"
        if fused:
            fuse_norms(layer)
            name = f"{name}, fused {fused}"
        if "rotary" in fused:
            fuse_rotary(layer)
        trees = attention == "m2_tree"
        x = torch.randn(1 if trees else 4, 16384 if trees else 4096, 3072, device="cuda")
        x = x.bfloat16().requires_grad_()
        where = rope(x, (torch.arange(x.shape[1], device="cuda") % 4096)[None])
        four = {"tree": (list(range(0, 16385, 4096)), [-1] * 4)} if trees else {}
        upstream = torch.randn_like(x)

        def both(
            layer: Any = layer, x: torch.Tensor = x, where: Any = where,
            upstream: torch.Tensor = upstream, four: Any = four,
        ) -> None:  # fmt: skip
            layer.zero_grad(set_to_none=True)
            x.grad = None
            out = layer(x, position_embeddings=where, attention_mask=None, **four)
            (out[0] if isinstance(out, tuple) else out).backward(upstream)

        leaves = [x, *layer.parameters()]
        yield row(
            "whole M2 layer, 4 × 4,096, forward+backward", name,
            median_ms(both, 0.8), gb=extra_gb(both, leaves),
        )  # fmt: skip
        del layer, x, both, leaves, upstream
        gc.collect()
        torch.cuda.empty_cache()
