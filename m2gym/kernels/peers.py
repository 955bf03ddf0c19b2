# mypy: disable-error-code="no-untyped-call,no-untyped-def,untyped-decorator"
"""What the bench holds the kernels against: transformers, plain torch, FlexAttention, Liger, a
split as ScatterMoE has it; and trees."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch.func import functional_call
from torch.nn.functional import log_softmax, silu

from m2gym.kernels import router
from m2gym.kernels.support import precision


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


def eager(shape: tuple[int, int, int, int]) -> Callable[..., torch.Tensor]:
    """Transformers' eager experts of MiniMax-M2 over the same tensors: a loop over the experts."""
    from transformers import MiniMaxM2Config
    from transformers.models.minimax_m2 import modeling_minimax_m2 as m2

    hidden, inner, count, top_k = shape
    config = MiniMaxM2Config(
        hidden_size=hidden, intermediate_size=inner, num_local_experts=count,
        num_experts_per_tok=top_k,
    )  # fmt: skip
    config._experts_implementation = "eager"
    with torch.device("meta"):
        module = m2.MiniMaxM2Experts(config)

    def call(
        x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, ids: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        held = {"gate_up_proj": gate_up, "down_proj": down}
        out: torch.Tensor = functional_call(module, held, (x, ids, weights))
        return out

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


def flex(
    starts: list[int], parents: list[int], *, dynamic: bool = False
) -> Callable[..., torch.Tensor]:
    """FlexAttention with a tree mask: preorder makes ancestors an interval test.

    ``dynamic``: compiled once for all sizes, as a run over ever new trees needs it.
    """
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
    torch._dynamo.reset()
    mask = torch.compile(create_block_mask)(sees, None, None, total, total, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=dynamic or None)

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out: Any = compiled(q, k, v, block_mask=mask, enable_gqa=True)
        attended: torch.Tensor = out[0].transpose(0, 1)
        return attended

    return call


def liger(
    h: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, old: torch.Tensor, entry: str
) -> Callable[[], torch.Tensor]:
    """Liger's fused linear losses over one sequence of rows: ``cross_entropy`` or ``cispo``.

    Raises:
        ImportError: liger-kernel is not installed.
    """
    if entry == "cross_entropy":
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        def entropy() -> torch.Tensor:
            loss: torch.Tensor = liger_fused_linear_cross_entropy(h, w, targets, reduction="sum")
            return loss

        return entropy
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(
        beta=0.0, use_ref_model=False, chunk_size=1, epsilon_high=3.0, loss_type="cispo"
    )
    rows = 16 if len(h) % 16 == 0 else 1
    ones = torch.ones(rows, device=h.device)

    def cispo() -> torch.Tensor:
        out: Any = loss(
            h.view(rows, -1, h.shape[1]), w, targets.view(rows, -1),
            attention_mask=torch.ones_like(targets.view(rows, -1)), advantages=ones,
            old_per_token_logps=old.view(rows, -1),
        )  # fmt: skip
        value: torch.Tensor = out[0]
        return value

    return cispo


@triton.jit
def _scattered_kernel(
    x, weight, out, slots, tile_expert, total, cols, depth,
    K: tl.constexpr, GATHER: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    n_tiles = cols // BN
    m = tl.program_id(0) // n_tiles
    n = tl.program_id(0) % n_tiles
    if m * BM < tl.load(total):
        row = m * BM + tl.arange(0, BM)
        slot = tl.load(slots + row)
        live = slot >= 0
        at = tl.where(live, slot // K, 0) if GATHER else row
        a = x + at.to(tl.int64)[:, None] * depth + tl.arange(0, BK)[None, :]
        base = tl.load(tile_expert + m).to(tl.int64) * cols + n * BN
        b = weight + (base + tl.arange(0, BN))[None, :] * depth + tl.arange(0, BK)[:, None]
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(0, depth, BK):
            left = tl.load(a + k, mask=live[:, None], other=0.0)
            right = tl.load(b + k)
            if PRECISION == "upcast":
                left = left.to(tl.float32)
                right = right.to(tl.float32)
            acc = tl.dot(
                left, right, acc, input_precision="ieee" if PRECISION == "ieee" else "tf32"
            )
        to = row if GATHER else tl.where(live, slot, 0)
        at = out + to.to(tl.int64)[:, None] * cols + n * BN + tl.arange(0, BN)[None, :]
        tl.store(at, acc.to(out.dtype.element_ty), mask=live[:, None])


def scattered(
    x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, ids: torch.Tensor,
    weights: torch.Tensor, tile: tuple[int, int, int, int, int] = (128, 128, 64, 8, 4),
) -> torch.Tensor:  # fmt: skip
    """The forward as ScatterMoE (arXiv 2403.08245) splits it: a product that gathers its rows, the
    activation apart, a product that scatters its rows to their slots, a weighted sum of slots."""
    tokens, top_k = ids.shape
    experts, _, width = gate_up.shape
    rows, cols, depth, warps, stages = tile
    plan = router.plan(ids, experts, rows)
    slots = torch.full((plan.capacity,), -1, dtype=torch.int32, device=x.device)
    flat = plan.rows_T_K.flatten().long()
    slots[flat] = torch.arange(len(flat), dtype=torch.int32, device=x.device)

    def product(
        a: torch.Tensor, weight: torch.Tensor, height: int, *, gather: bool
    ) -> torch.Tensor:
        out = torch.empty(height, weight.shape[1], dtype=x.dtype, device=x.device)
        grid = (plan.capacity // rows * (weight.shape[1] // cols),)
        _scattered_kernel[grid](
            a, weight, out, slots, plan.tile_expert, plan.starts_E1[experts:], weight.shape[1],
            weight.shape[2], K=top_k, GATHER=gather, BM=rows, BN=cols, BK=depth,
            PRECISION=precision(x.dtype), num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return out

    gate, up = product(x, gate_up, plan.capacity, gather=True).chunk(2, dim=-1)
    y = product(silu(gate) * up, down, tokens * top_k, gather=False)
    return torch.einsum("tkh,tk->th", y.view(tokens, top_k, width), weights.to(y.dtype))
