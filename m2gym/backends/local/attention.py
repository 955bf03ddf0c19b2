"""Attention in blocks with their log-sum-exp, merged: the arithmetic under the engine's cache.

Heads are laid out as K x (T·G): the G query heads that share a key head stand side by side, so that
one product serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Block = tuple[torch.Tensor, torch.Tensor]
"""Output (… x Q x D) and log-sum-exp (… x Q), the latter in float32 or wider."""

HALVES = (torch.bfloat16, torch.float16)
ALIGNED, WIDEST = 8, 256
"""What the fused kernels of CUDA want: a number of keys and a width divisible by the first, and no
width above the second."""

PIECE = 256
"""Keys that a few queries attend to at once; ours. 64 and 128 were no faster on an H200."""

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


def pieces(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    mask: torch.Tensor,
    length: int = PIECE,
) -> Block:
    """`block` over pieces of the keys, each for itself: a GPU computes them side by side, where one
    block of a few queries over many keys leaves most of it idle (Flash-Decoding).

    Args:
        q: B x Q x D, B being heads of sequences.
        k: B x S x D.
        v: as ``k``.
        scale: of the scores.
        mask: added to the scores, broadcast to B x Q x S.
        length: keys of a piece; divides S, or is more.

    Returns:
        B x N x Q x D and B x N x Q, N being the pieces: for `join`.
    """
    number = max(1, k.shape[1] // length)
    q_B_N_Q_D = q[:, None].expand(-1, number, -1, -1)
    k_B_N_S_D, v_B_N_S_D = (torch.unflatten(x, 1, (number, -1)) for x in (k, v))
    mask_B_N_Q_S = torch.unflatten(mask, -1, (number, -1)).transpose(1, 2)
    return block(q_B_N_Q_D, k_B_N_S_D, v_B_N_S_D, scale, mask=mask_B_N_Q_S)


def join(parts: Sequence[Block], dim: int) -> torch.Tensor:
    """Attention over the keys of all pieces, which lie along ``dim`` of each part; in float32 or
    wider."""
    out, lse = (torch.cat(some, dim) for some in zip(*parts, strict=True))
    return (out * lse.softmax(dim)[..., None]).sum(dim)
