"""What the bench holds the kernels against: transformers, plain torch, FlexAttention; and trees."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import log_softmax


def grouped_mm(shape: tuple[int, int, int, int]) -> Callable[..., torch.Tensor]:
    """Transformers' own experts path over the same tensors."""
    from types import SimpleNamespace

    from transformers.integrations import moe

    def call(
        x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, ids: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        module = SimpleNamespace(
            num_experts=shape[2], has_gate=True, has_bias=False, is_transposed=False,
            gate_up_proj=gate_up, down_proj=down, act_fn=torch.nn.functional.silu,
        )  # fmt: skip
        module._apply_gate = lambda both: moe._default_apply_gate(module, both)
        peer: Callable[..., torch.Tensor] = moe.grouped_mm_experts_forward
        return peer(module, x, ids, weights)

    return call


def plain_logprobs(h: torch.Tensor, w: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return log_softmax((h @ w.T).float(), dim=-1).gather(1, targets[:, None])[:, 0]


def prefix_tree(prefix: int, branches: int, length: int) -> tuple[list[int], list[int]]:
    starts = [0, *range(prefix, prefix + branches * length + 1, length)]
    return starts, [-1] + [0] * branches


def turns_tree(nodes: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """A multi-turn tree: nodes of 64 to 512 tokens, 16 deep at most, branching anywhere."""
    rng = random.Random(seed)
    starts: list[int] = [0]
    parents: list[int] = []
    chain: list[int] = []
    for node in range(nodes):
        if len(chain) >= 16 or (chain and rng.random() < 0.4):
            del chain[rng.randint(1, len(chain)) :]
        parents.append(chain[-1] if chain else -1)
        chain.append(node)
        starts.append(starts[-1] + 64 * rng.randint(1, 8))
    return starts, parents


def flex(starts: list[int], parents: list[int]) -> Callable[..., torch.Tensor]:
    """FlexAttention with a tree mask: preorder makes ancestors an interval test."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    count = len(parents)
    after = list(range(1, count + 1))
    for node in range(count - 1, -1, -1):
        if parents[node] >= 0:
            after[parents[node]] = max(after[parents[node]], after[node])
    sizes = torch.tensor([b - a for a, b in itertools.pairwise(starts)])
    ends = torch.tensor([starts[a] for a in after]).repeat_interleave(sizes).cuda()

    def sees(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & (q < ends[k])

    total = starts[-1]
    mask = torch.compile(create_block_mask)(sees, None, None, total, total, device="cuda")
    compiled = torch.compile(flex_attention)

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out: Any = compiled(q, k, v, block_mask=mask, enable_gqa=True)
        attended: torch.Tensor = out[0].transpose(0, 1)
        return attended

    return call
