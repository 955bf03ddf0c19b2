# mypy: disable-error-code="no-untyped-call"
"""Tree attention, beside FlexAttention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from m2gym.kernels import reference
from m2gym.kernels.bench.measure import Row, extra_gb, median_ms, relative, row
from m2gym.kernels.peers import flex, prefix_tree, turns_tree
from m2gym.kernels.tree_attention import tree_attention

TREES = {
    "16,384 + 8×1,024": (16384, 8, 1024),
    "32,768 + 16×512": (32768, 16, 512),
    "8,192 + 8×2,048": (8192, 8, 2048),
}


def bench_tree() -> Iterator[Row]:
    yield from check_tree(*turns_tree(24))
    for name, sizes in TREES.items():
        yield from _time_tree(name, *prefix_tree(*sizes))
    yield from _time_tree("256 turns of 64–512", *turns_tree(256), large=(2**21, 2**62))


def _time_tree(
    name: str, starts: list[int], parents: list[int], large: Sequence[int] = ()
) -> Iterator[Row]:
    total = starts[-1]
    q, k, v = (
        torch.randn(total, n, 128, device="cuda").bfloat16().requires_grad_() for n in (48, 8, 8)
    )
    upstream = torch.randn_like(q)
    flops = 14.0 * 48 * 128 * _pairs(starts, parents)

    def ours(bound: int | None) -> Callable[..., torch.Tensor]:
        return lambda q, k, v: tree_attention(q, k, v, starts, parents, large=bound)

    calls = {"ours": ours(None)} | {f"ours, library from {b:,} pairs": ours(b) for b in large}
    calls["FlexAttention, compiled for this tree"] = flex(starts, parents)
    for how, call in calls.items():
        yield _tree_row(name, how, call, (q, k, v), upstream, flops)
    if large:  # a tree of agent turns: each is another
        how = "FlexAttention, compiled for any tree"
        yield _tree_row(name, how, flex(starts, parents, dynamic=True), (q, k, v), upstream, flops)


def _tree_row(
    name: str, how: str, call: Callable[..., torch.Tensor],
    leaves: tuple[torch.Tensor, torch.Tensor, torch.Tensor], upstream: torch.Tensor, flops: float,
) -> Row:  # fmt: skip
    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        call(*leaves).backward(upstream)

    ms = median_ms(both, 0.6)
    return row(f"tree attention, {name}", how, ms, flops, gb=extra_gb(both, leaves))


def _pairs(starts: list[int], parents: list[int]) -> int:
    """How many (query, key) pairs the tree's mask holds."""
    depth: list[int] = []
    pairs = 0
    for node, parent in enumerate(parents):
        size = starts[node + 1] - starts[node]
        above = depth[parent] if parent >= 0 else 0
        depth.append(above + size)
        pairs += size * above + size * (size + 1) // 2
    return pairs


def check_tree(starts: list[int], parents: list[int]) -> Iterator[Row]:
    mask = reference.tree_mask(starts, parents).cuda()
    inputs = [torch.randn(starts[-1], n, 128, device="cuda").bfloat16() for n in (6, 2, 2)]
    truth = [x.double().requires_grad_() for x in inputs]
    want = reference.attention(truth[0], truth[1], truth[2], mask, 128**-0.5)
    upstream = torch.randn_like(want)
    want.backward(upstream)
    for large in (1, 2**18, 2**62):
        mine = [x.clone().requires_grad_() for x in inputs]
        out = tree_attention(mine[0], mine[1], mine[2], starts, parents, large=large)
        out.backward(upstream.to(out.dtype))
        errors = {"out": relative(out, want)}
        for name, a, b in zip(("d_query", "d_key", "d_value"), mine, truth, strict=True):
            assert a.grad is not None
            assert b.grad is not None
            errors[name] = relative(a.grad, b.grad)
        yield {"work": "tree attention, error against float64", "how": f"ours, large {large:,}"} | {
            k: float(f"{v:.2e}") for k, v in errors.items()
        }
