"""A plain Llama-type decoder over a packed row: what the measurement needs and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from m2gym.forge.attention import tree_attention
from m2gym.forge.layout import Ints, Layout
from m2gym.forge.objectives import Cispo, TokenBatch
from m2gym.forge.targets import Targets, score

VOCABULARY = 1024

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Layout], torch.Tensor]
"""(q_H_T_D, k_K_T_D, v_K_T_D, layout) -> H x T x D."""


def _rectangles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> torch.Tensor:
    return tree_attention(q, k, v, layout, backend="rectangles")


class Decoder(nn.Module):
    """``attend``: the attention; ``recompute``: blocks are computed again in the backward pass."""

    def __init__(
        self,
        hidden: int = 128,
        layers: int = 3,
        heads: int = 4,
        kv: int = 2,
        *,
        attend: Attend = _rectangles,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.attend, self.recompute = attend, recompute
        self.heads, self.kv, self.width = heads, kv, hidden // heads
        self.embed = nn.Embedding(VOCABULARY, hidden)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.ModuleDict(
                {
                    "norm1": nn.RMSNorm(hidden),
                    "qkv": nn.Linear(hidden, (heads + 2 * kv) * self.width, bias=False),
                    "out": nn.Linear(hidden, hidden, bias=False),
                    "norm2": nn.RMSNorm(hidden),
                    "up": nn.Linear(hidden, 8 * hidden, bias=False),
                    "down": nn.Linear(4 * hidden, hidden, bias=False),
                }
            )
            self.blocks.append(block)
        self.norm = nn.RMSNorm(hidden)
        self.head = nn.Linear(hidden, VOCABULARY, bias=False)

    def forward(self, ids_T: torch.Tensor, layout: Layout, position_P: torch.Tensor) -> Any:
        """Logits at the positions that predict something, P x V."""
        x = self.embed(ids_T)
        position_T = torch.as_tensor(layout.position_T, device=x.device)
        turn = torch.pow(1e4, -torch.arange(0, self.width, 2, device=x.device) / self.width)
        angle = position_T[:, None] * turn
        cos, sin = (f(angle).repeat(1, 2).to(x.dtype) for f in (torch.cos, torch.sin))
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(self._block, block, x, cos, sin, layout, use_reentrant=False)
            else:
                x = self._block(block, x, cos, sin, layout)
        return self.head(self.norm(x[position_P]))

    def _block(
        self, block: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        def rotate(t: torch.Tensor) -> torch.Tensor:
            a, b = t.chunk(2, -1)
            return t * cos + torch.cat([-b, a], -1) * sin

        qkv = block["qkv"](block["norm1"](x)).view(len(x), -1, self.width).transpose(0, 1)
        q, k, v = qkv.split([self.heads, self.kv, self.kv])
        mixed = self.attend(rotate(q), rotate(k), v, layout)
        x = x + block["out"](mixed.transpose(0, 1).reshape(len(x), -1))
        gate, up = block["up"](block["norm2"](x)).chunk(2, -1)
        out: torch.Tensor = x + block["down"](nn.functional.silu(gate) * up)
        return out

    def work(self, layout: Layout, predicted: int) -> float:
        """Multiply-adds of a forward pass: matmuls by token, attention by pair."""
        per_token = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)
        per_pair = 2 * self.heads * self.width * len(self.blocks)
        return (
            layout.tokens * per_token
            + layout.pairs * per_pair
            + predicted * self.head.weight.numel()
        )


def train_step(
    model: Decoder, ids_T: Ints, layout: Layout, targets: Targets, sample: int = 0
) -> None:
    """Forward and backward of CISPO; gradients add up. ``sample``: number of the first sample."""
    device = model.head.weight.device
    position_P = torch.as_tensor(targets.position_P, device=device)
    logits = model(torch.as_tensor(ids_T, device=device), layout, position_P)
    local = Targets(
        np.arange(len(targets.position_P)),
        targets.target_P,
        targets.pair_M,
        targets.sample_M,
        targets.old_logprobs_M,
    )
    scores = score(logits, local)
    sample_M = torch.as_tensor(targets.sample_M, device=device)
    advantage_M = torch.where((sample_M + sample) % 2 == 0, 1.0, -1.0)
    old_M = torch.as_tensor(targets.old_logprobs_M, dtype=torch.float32, device=device)
    batch = TokenBatch(scores.logprobs_M, old_M, advantage_M, sample_M, total_tokens=1024)
    torch.autograd.backward(Cispo()(batch).value)


def gradient(model: Decoder) -> torch.Tensor:
    """All gradients, flat, and forgotten."""
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(grads)
