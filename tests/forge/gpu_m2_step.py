"""One training step of an M2-shaped model on a GPU: merged against unmerged, all on our kernels.

``python -m tests.forge.gpu_m2_step SHARED OWN MEMBERS [MEASURED]`` prints one JSON row. The model
is transformers' MiniMax-M2 with random weights at M2's own widths (hidden 3072, 48 and 8 heads,
256 experts of 1536, top 8, 200,064 tokens) and two of its 62 layers; bfloat16, layers recomputed
in the backward pass. Unmerged samples go packed: several to a row, each its own root, up to BUDGET
tokens; MEASURED of them are timed and scaled when running all would take long. Gradients are
compared merged with unmerged, and, to know what rounding and the router's ties alone do, unmerged
with unmerged: packed otherwise, and with the attention of our own kernel instead of cuDNN's.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from transformers import MiniMaxM2Config, MiniMaxM2ForCausalLM

from m2gym.kernels.logprobs import Cispo, policy_loss
from m2gym.kernels.register import ATTENTION, EXPERTS, fuse_norms, fuse_rotary, register

LAYERS, BUDGET, VOCABULARY = 2, 36_864, 200_064
Row = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor,
    tuple[list[int], list[int]],
]  # fmt: skip
"""Ids, positions, and of each trained pair: its row, its target, how many samples train it; the
tree's node starts and parents."""


def model() -> Any:
    register()
    config = MiniMaxM2Config(
        hidden_size=3072, intermediate_size=1536, num_local_experts=256, num_experts_per_tok=8,
        num_attention_heads=48, num_key_value_heads=8, head_dim=128, num_hidden_layers=LAYERS,
        vocab_size=VOCABULARY,
    )  # fmt: skip
    config._attn_implementation, config._experts_implementation = ATTENTION, EXPERTS
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        made = MiniMaxM2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.02) if p.dim() > 1 else torch.nn.init.ones_(p)
    fuse_norms(made)
    fuse_rotary(made)
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return made.train()


def merged_row(shared: int, own: int, ids_S_T: torch.Tensor) -> Row:
    """All samples in one tree: the prompt once, then every response."""
    members = len(ids_S_T)
    ids = torch.cat([ids_S_T[0, :shared], ids_S_T[:, shared:].flatten()])
    positions = torch.cat(
        [torch.arange(shared), torch.arange(shared, shared + own).repeat(members)]
    )
    first = shared + own * torch.arange(members)[:, None] + torch.arange(own)[None]
    rows = torch.cat([torch.full((members, 1), shared - 1), first[:, :-1]], 1).flatten()
    starts = [0, *range(shared, shared + own * members + 1, own)]
    targets = ids_S_T[:, shared:].flatten()
    return ids, positions, rows, targets, torch.ones(len(rows)), (starts, [-1] + [0] * members)


def unmerged_row(shared: int, own: int, ids_S_T: torch.Tensor) -> Row:
    """The samples one after the other in a row, each its own root."""
    members, length = ids_S_T.shape
    positions = torch.arange(length).repeat(members)
    rows = (
        torch.arange(members)[:, None] * length + torch.arange(shared - 1, length - 1)
    ).flatten()
    starts = list(range(0, members * length + 1, length))
    return (
        ids_S_T.flatten(),
        positions,
        rows,
        ids_S_T[:, shared:].flatten(),
        torch.ones(len(rows)),
        (starts, [-1] * members),
    )


def step(made: Any, row: Row) -> None:
    """Forward and backward of CISPO; gradients add up."""
    *tensors, tree = row
    ids, positions, rows, targets, times = (tensor.cuda() for tensor in tensors)
    hidden = made.model(
        ids[None], position_ids=positions[None], use_cache=False, tree=tree
    ).last_hidden_state[0]
    ones = torch.ones(len(targets), device="cuda")
    loss = policy_loss(
        hidden[rows], made.lm_head.weight, targets, ones, -12 * ones, times / 1024, Cispo(),
        weight_grad_dtype=torch.bfloat16,
    ).loss  # fmt: skip
    loss.backward()


def timed(made: Any, rows: list[Row], repeats: int) -> tuple[float, float]:
    """Median seconds and peak GB."""
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        made.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for row in rows:
            step(made, row)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2], torch.cuda.max_memory_allocated() / 1e9


def work(tokens: int, pairs: int, predicted: int) -> float:
    """Multiply-adds of a forward pass that depend on the batch: matmuls by token, attention."""
    attention = 3072 * 128 * (2 * 48 + 2 * 8)
    token = LAYERS * (attention + 8 * 3 * 3072 * 1536 + 256 * 3072)
    return tokens * token + pairs * LAYERS * 2 * 48 * 128 + predicted * VOCABULARY * 3072


def differences(made: Any, names: tuple[str, ...], grads: list[torch.Tensor]) -> list[float]:
    """Relative differences of the gradients now from those given."""
    return [
        float((made.get_parameter(n).grad.float() - g).norm() / g.norm())
        for n, g in zip(names, grads, strict=True)
    ]


def main(shared: int, own: int, members: int, measured: int) -> None:
    torch.manual_seed(0)
    made = model()
    ids = torch.randint(0, VOCABULARY, (members, shared + own))
    ids[:, :shared] = ids[0, :shared]
    length = shared + own
    each = max(1, BUDGET // length)
    merged = [merged_row(shared, own, ids)]
    alone = [unmerged_row(shared, own, ids[a : a + each]) for a in range(0, measured, each)]
    timed(made, [alone[0]], 1)
    timed(made, merged, 1)
    ours, ours_gb = timed(made, merged, 3)
    names = ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight")
    grads = [made.get_parameter(name).grad.float() for name in names]
    peer, peer_gb = timed(made, alone, 1 if measured < members else 2)
    pairs = length * (length + 1) // 2
    shared_pairs = shared * (shared + 1) // 2
    merged_work = work(
        shared + own * members, shared_pairs + members * (pairs - shared_pairs), own * members
    )
    ideal = members * work(length, pairs, own) / merged_work
    speed = peer * members / measured / ours
    row = {
        "device": torch.cuda.get_device_name(),
        "case": f"{members} x ({shared} shared + {own} own)",
        "merged_s": ours, "unmerged_s": peer * members / measured, "measured": measured,
        "speed_up": speed, "ideal": ideal, "of_ideal": speed / ideal,
        "merged_gb": ours_gb, "unmerged_gb": peer_gb,
    }  # fmt: skip
    if measured == members:
        row["gradient_difference"] = differences(made, names, grads)
        grads = [made.get_parameter(name).grad.float() for name in names]
        other = [unmerged_row(shared, own, ids[a : a + 1]) for a in range(members)]
        timed(made, other, 1)
        row["between_two_packings"] = differences(made, names, grads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        timed(made, other, 1)
        row["between_two_attentions"] = differences(made, names, grads)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    shared, own, members, *measured = map(int, sys.argv[1:])
    main(shared, own, members, measured[0] if measured else members)
