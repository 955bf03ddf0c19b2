"""Tree attention against a dense mask, and the rectangles against brute force."""

from __future__ import annotations

import random

import pytest
import torch

from m2gym.kernels import reference
from m2gym.kernels.support import KernelRefusal
from m2gym.kernels.tree_attention import batches, rectangles, tree_attention

TREES: dict[str, tuple[list[int], list[int]]] = {
    "one node": ([0, 7], [-1]),
    "chain": ([0, 3, 5, 9], [-1, 0, 1]),
    "prefix and branches": ([0, 6, 9, 11, 16], [-1, 0, 0, 0]),
    "two levels": ([0, 4, 6, 9, 10, 14, 15], [-1, 0, 1, 1, 0, 4]),
    "forest": ([0, 3, 5, 8, 9], [-1, 0, -1, 2]),
}


def random_tree(nodes: int, seed: int) -> tuple[list[int], list[int]]:
    """A random tree in preorder: the next node hangs from some node of the current chain."""
    rng = random.Random(seed)
    starts, parents, chain = [0], [], []
    for node in range(nodes):
        if chain:
            del chain[rng.randint(1, len(chain)) :]
        parents.append(chain[-1] if chain else -1)
        chain.append(node)
        starts.append(starts[-1] + rng.randint(1, 4))
    return starts, parents


TREES |= {f"random {seed}": random_tree(14, seed) for seed in range(4)}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_rectangles_cover_the_mask_once(tree: tuple[list[int], list[int]]) -> None:
    starts, parents = tree
    times = torch.zeros(starts[-1], starts[-1], dtype=torch.int)
    for r in rectangles(starts, parents):
        block = torch.ones(r.last - r.first, r.key_last - r.key_first, dtype=torch.int)
        times[r.first : r.last, r.key_first : r.key_last] += block.tril() if r.causal else block
    assert torch.equal(times, reference.tree_mask(starts, parents).int())


def test_few_calls_for_many_nodes() -> None:
    starts, parents = random_tree(256, 1)
    levels = {r.level for r in rectangles(starts, parents)}
    assert len(batches(starts, parents, torch.device("cpu"))) <= 1 + len(levels)


@pytest.mark.parametrize("large", [1, 20, 10**9])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_matches_dense(tree: tuple[list[int], list[int]], large: int, device: str) -> None:
    starts, parents = tree
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    width = 16 if device == "cpu" else 64
    bound = 1e-5 if device == "cpu" else 1e-2
    ours, truth = [], []
    for heads in (4, 2, 2):
        x = torch.randn(starts[-1], heads, width, device=device).to(dtype)
        ours.append(x.clone().requires_grad_())
        truth.append(x.double().requires_grad_())
    out = tree_attention(*ours, starts, parents, large=large)
    mask = reference.tree_mask(starts, parents).to(device)
    want = reference.attention(*truth, mask, width**-0.5)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    want.backward(upstream.double())
    assert float((out - want).norm() / want.norm()) < bound
    for got, right in zip(ours, truth, strict=True):
        assert got.grad is not None
        assert right.grad is not None
        error = (got.grad.double() - right.grad).norm() / right.grad.norm().clamp(min=1e-6)
        assert float(error) < bound


def test_a_sibling_changes_nothing(device: str) -> None:
    starts, parents = TREES["prefix and branches"]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v = (torch.randn(16, 2, 16, device=device).to(dtype) for _ in range(3))
    before = tree_attention(q, k, v, starts, parents)
    k[9:11] += 1
    after = tree_attention(q, k, v, starts, parents)
    same = torch.ones(16, dtype=torch.bool)
    same[9:11] = False
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before, after)


def test_refusals(device: str) -> None:
    x = torch.zeros(5, 2, 16, device=device).bfloat16()
    with pytest.raises(KernelRefusal, match="preorder"):
        tree_attention(x, x, x, [0, 1, 2, 3, 5], [-1, 0, 0, 1])
    with pytest.raises(KernelRefusal, match="starts must rise"):
        tree_attention(x, x, x, [0, 0, 5], [-1, 0])
    with pytest.raises(KernelRefusal, match="the tree has 4 rows"):
        tree_attention(x, x, x, [0, 4], [-1])
    with pytest.raises(KernelRefusal, match="N a multiple of M"):
        tree_attention(x[:, :1], x, x, [0, 5], [-1])
    with pytest.raises(KernelRefusal, match="power of two"):
        tree_attention(x[..., :12], x[..., :12], x[..., :12], [0, 5], [-1])
