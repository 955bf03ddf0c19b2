"""Attention in blocks with their log-sum-exp, merged: the arithmetic under the engine's cache.

Heads are laid out as K x (T·G): the G query heads that share a key head stand side by side, so that
one product serves them all.
"""

from __future__ import annotations

import math

import torch

Block = tuple[torch.Tensor, torch.Tensor]
"""Output (… x Q x D) and log-sum-exp (… x Q), the latter in float32 or wider."""

HALVES = (torch.bfloat16, torch.float16)
ALIGNED, WIDEST = 8, 256
"""What the fused kernels of CUDA want: a number of keys and a width divisible by the first, and no
width above the second."""

FLASH_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def block(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> Block:
    """Attention of one block.

    Args:
        q: B x heads x Q x D.
        k: B x heads x S x D.
        v: as ``k``.
        scale: of the scores.
        causal: query i sees keys 0..i (Q = S).
        mask: added to the scores, broadcast to B x heads x Q x S.
    """
    if q.device.type == "cpu" and q.dtype in FLASH_TYPES:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
        return out, lse
    fused = q.is_cuda and q.dtype in HALVES and q.shape[-1] == v.shape[-1] and _fits(q.shape[-1])
    if fused and mask is None:
        found = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, causal, False, scale=scale
        )
        return found[0], found[1][..., : q.shape[-2]]
    if fused and mask is not None and not causal and k.shape[-2] % ALIGNED == 0:
        bias = mask.to(q.dtype).expand(*q.shape[:-1], k.shape[-2])
        found = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, bias, True, 0.0, False, scale=scale
        )
        return found[0], found[1][..., : q.shape[-2]]
    return plain_block(q, k, v, scale, causal=causal, mask=mask)


def _fits(width: int) -> bool:
    return width % ALIGNED == 0 and width <= WIDEST


def plain_block(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> Block:
    """`block` by products and a softmax: the reference, on any device."""
    kind = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k.transpose(-1, -2)).to(kind) * scale
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    if mask is not None:
        scores = scores + mask
    lse = torch.logsumexp(scores, -1)
    return torch.exp(scores - lse[..., None]).to(v.dtype) @ v, lse


def merge(one: Block, other: Block) -> Block:
    """Attention over the keys of both blocks; the output in float32 or wider."""
    lse = torch.logaddexp(one[1], other[1])
    kind = torch.promote_types(one[0].dtype, torch.float32)
    out = one[0].to(kind) * torch.exp(one[1] - lse)[..., None]
    return torch.addcmul(out, other[0].to(kind), torch.exp(other[1] - lse)[..., None]), lse
