"""The same tokens as our flat batch and as the padded rectangle that verl and TRL take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from m2gym.forge.objectives import TokenBatch

LENGTHS = (3, 1, 5, 2)


@dataclass(frozen=True)
class Padded:
    """Samples by tokens, masked at the end of the shorter ones."""

    logprobs: torch.Tensor
    old: torch.Tensor
    advantage: torch.Tensor
    mask: torch.Tensor
    reference: torch.Tensor


def draw(seed: int, spread: float = 0.6, dtype: torch.dtype = torch.float64) -> Padded:
    """Random logprobs around the old ones, ratios on both sides of every clip."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))
    old = -torch.rand(shape, generator=g, dtype=torch.float64) * 3
    new = old + spread * torch.randn(shape, generator=g, dtype=torch.float64)
    reference = old + 0.3 * torch.randn(shape, generator=g, dtype=torch.float64)
    advantage = torch.randn(shape[0], 1, generator=g, dtype=torch.float64).expand(shape)
    mask = torch.arange(shape[1])[None] < torch.tensor(LENGTHS)[:, None]
    return Padded(
        new.to(dtype).requires_grad_(), old.to(dtype), advantage.to(dtype), mask,
        reference.to(dtype),
    )  # fmt: skip


def flat(padded: Padded) -> TokenBatch:
    """Ours, on the same leaf: gradients reach ``padded.logprobs``."""
    keep = padded.mask
    sample = torch.arange(len(LENGTHS))[:, None].expand(keep.shape)[keep]
    return TokenBatch(
        padded.logprobs[keep], padded.old[keep], padded.advantage[keep], sample,
        reference_M=padded.reference[keep],
    )  # fmt: skip
