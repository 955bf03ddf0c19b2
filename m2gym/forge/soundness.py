"""Where merging is not exact, and a check before its first use.

Merging is exact for causal full attention with per-token layers. It is refused by name for models
in which a token's state depends on more than its prefix's tokens, or whose loss counts tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from m2gym.core.errors import InputError, M2GymError
from m2gym.forge.tree import Sample

UNSOUND_LAYERS = {
    "sliding_attention": "a sliding window cuts prefixes by distance in the row",
    "chunked_attention": "chunked attention cuts prefixes by distance in the row",
    "linear_attention": "linear attention carries a state along the row, across branches",
    "mamba": "a state-space layer carries a state along the row, across branches",
    "hybrid": "attention beside a state-space layer, which carries a state along the row",
    "indexed_attention": "keys are chosen by an index over the row, across branches",
    "conv": "a convolution reads neighbours in the row, across branches",
    "recurrent": "a recurrent layer carries a state along the row, across branches",
}
"""Values of a transformers configuration's ``layer_types`` that are refused, and why."""

UNSOUND_MODELS = {
    "mamba": "state-space",
    "mamba2": "state-space",
    "falcon_mamba": "state-space",
    "falcon_h1": "attention beside state-space layers",
    "granitemoehybrid": "state-space",
    "nemotron_h": "state-space",
    "gpt_neo": "local attention in every other layer",
    "xlstm": "recurrent",
    "rwkv": "recurrent",
    "recurrent_gemma": "recurrent",
    "jamba": "state-space",
    "bamba": "state-space",
    "zamba2": "state-space",
    "minimax": "linear attention (MiniMax-Text-01, MiniMax-M1)",
    "qwen3_next": "linear attention",
}
"""Model types of transformers that are refused as a whole, and why."""


class MergeUnsoundError(InputError):
    """Merging would change the loss or the gradients of this model."""


class MergeMismatchError(M2GymError):
    """The first-use check found that merged and unmerged training differ."""


def refuse_unsound(config: Any) -> None:
    """Raise `MergeUnsoundError` when a transformers configuration is one merging is not exact for.

    Refused: linear-attention, state-space and recurrent models, sliding windows and chunks, router
    losses that count tokens (``output_router_logits`` with a non-zero ``router_aux_loss_coef``),
    router jitter, and attention dropout (one draw would serve all the samples of a shared node).
    """
    inner = getattr(config, "text_config", None)
    if inner is not None and inner is not config:
        refuse_unsound(inner)
    kind = getattr(config, "model_type", "")
    if kind in UNSOUND_MODELS:
        raise MergeUnsoundError(f"{kind}: {UNSOUND_MODELS[kind]}; train it without merging")
    for layer in getattr(config, "layer_types", None) or ():
        reason = UNSOUND_LAYERS.get(layer)
        if reason is not None:
            raise MergeUnsoundError(
                f"{kind}: layer type {layer!r}: {reason}; train without merging"
            )
    window = getattr(config, "sliding_window", None)
    by_layer = getattr(config, "layer_types", None)
    if window and not by_layer and getattr(config, "use_sliding_window", True):
        raise MergeUnsoundError(
            f"{kind}: sliding_window={window}: {UNSOUND_LAYERS['sliding_attention']}; set it to "
            f"None if no sample is longer, else train without merging"
        )
    if getattr(config, "output_router_logits", False) and getattr(
        config, "router_aux_loss_coef", 0
    ):
        raise MergeUnsoundError(
            f"{kind}: the router's auxiliary loss counts tokens, and a shared token counts once; "
            f"set output_router_logits=False or router_aux_loss_coef=0"
        )
    for name in ("attention_dropout", "hidden_dropout", "router_jitter_noise"):
        if getattr(config, name, 0):
            raise MergeUnsoundError(
                f"{kind}: {name}={getattr(config, name)} would draw once for all samples of a "
                f"shared node; set it to 0"
            )


def check_merging(
    score_samples: Callable[[Sequence[Sample]], torch.Tensor],
    samples: Sequence[Sample],
    parameters: Sequence[torch.Tensor],
    *,
    tolerance: float,
) -> dict[str, float]:
    """Compare merged with unmerged logprobs and gradients, once, before training.

    Args:
        score_samples: merges the samples it is given and returns their logprobs, flat (length M),
            attached to the graph.
        samples: a few that share a prefix.
        parameters: whose gradients are compared; their ``grad`` is not touched.
        tolerance: largest relative difference (of the norm): about 1e-9 in float64, 1e-4 to 1e-3
            in float32; in bfloat16 a router's near ties alone make 0.2 (docs/forge.md).

    Returns:
        ``{"logprobs": …, "gradients": …}``, the relative differences found.

    Raises:
        MergeMismatchError: a difference above the tolerance, or not finite.
    """
    if len(samples) < 2:
        raise InputError(f"merging is checked on at least two samples, got {len(samples)}")
    wanted = [p for p in parameters if p.requires_grad]
    merged = score_samples(samples)
    single = torch.cat([score_samples([sample]) for sample in samples])
    if merged.shape != single.shape:
        raise MergeMismatchError(f"{merged.shape[0]} logprobs merged, {single.shape[0]} unmerged")
    weight = torch.linspace(-1.0, 1.0, len(merged), dtype=merged.dtype, device=merged.device) + 0.1
    pairs = [
        torch.autograd.grad((weight * values).sum(), wanted, allow_unused=True)
        for values in (merged, single)
    ]
    flat = [
        torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(wanted, gs, strict=True)
            ]
        )
        for gs in pairs
    ]
    found = {
        "logprobs": _relative(merged.detach(), single.detach()),
        "gradients": _relative(flat[0], flat[1]),
    }
    for name, value in found.items():
        if not value <= tolerance:
            raise MergeMismatchError(
                f"{name} of merged and unmerged training differ by {value:.2e} (relative), more "
                f"than {tolerance:.0e}; train this model without merging and report it"
            )
    return found


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
