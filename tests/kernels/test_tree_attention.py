"""Tree attention against a dense mask, and the rectangles against brute force."""

from __future__ import annotations

import random

import pytest
import torch

from m2gym.kernels import reference, tree_kernel, tree_plan
from m2gym.kernels.support import KernelRefusal
from m2gym.kernels.tree_attention import rectangles, tree_attention
from m2gym.kernels.tree_plan import Cuts, plan

CUTS = Cuts((16, 16, 16), (16, 16, 16), (16, 16), (16, 0))
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


@pytest.mark.parametrize("large", [1, 12, 10**9])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_the_tables_cover_the_mask_once(tree: tuple[list[int], list[int]], large: int) -> None:
    """What the library's calls and the kernel's two tables read, pair by pair."""
    starts, parents = tree
    total = starts[-1]
    want = reference.tree_mask(starts, parents).int()
    tokens, keys = 3, 4
    cuts = Cuts((tokens, keys, 2), (tokens, keys, keys), (5, keys), (tokens, 0))
    cut = plan(tuple(starts), tuple(parents), large, 1, cuts, torch.device("cpu"))
    calls = torch.zeros(total, total, dtype=torch.int)
    for r, copies in cut.calls:
        side = r.last - r.first
        for shift in range(0, side * copies, side):
            rows = slice(r.first + shift, r.last + shift)
            at = slice(
                r.key_first + (shift if r.causal else 0), r.key_last + (shift if r.causal else 0)
            )
            calls[rows, at] += want[rows, at] if r.causal else 1
    by_query, by_key = calls.clone(), calls.clone()
    if cut.tables is not None:
        t = cut.tables
        for first, last, own, b0, b1, t0, t1 in t.forward.tolist():
            for start in t.blocks_forward.flatten().tolist()[b0:b1]:
                by_query[first:last, start : start + keys] += 1
            for start, end in t.tails_forward.tolist()[t0:t1]:
                assert end - start <= 2
                by_query[first:last, start:end] += 1
            for row in range(first, last):
                by_query[row, own : row + 1] += own < last
        reach = t.reach.flatten()
        for first, last, begin, end, _, _ in t.d_key.tolist():
            q, k = torch.arange(begin, end)[:, None], torch.arange(first, last)[None]
            sees = (k <= q) & (q < reach[k])
            by_key[begin:end, first:last] += sees
    assert torch.equal(by_query, want)
    assert torch.equal(by_key, want)


def test_many_readers_are_cut_into_pieces_that_join() -> None:
    """A root of 32 tokens before 200 branches of 64: no piece is longer than its share."""
    starts = (0, *range(32, 32 + 64 * 201, 64))
    cuts = Cuts((16, 16, 16), (16, 16, 16), (16, 32), (16, 10**9))
    t = plan(starts, (-1, *[0] * 200), 2**62, 1, cuts, torch.device("cpu")).tables
    assert t is not None
    pieces = t.d_key.tolist()
    assert max(end - begin for _, _, begin, end, _, _ in pieces) <= 1024
    for first, last, low, high in t.joins.tolist():
        mine = sorted(piece[2:] for piece in pieces if piece[:2] == [first, last])
        assert [piece[2] for piece in mine] == list(range(low, high))
        assert [a[1] for a in mine[:-1]] == [b[0] for b in mine[1:]]
    assert t.joins[:, :2].tolist() == [[0, 32]]
    assert t.parts == sum(piece[4] >= 0 for piece in pieces) == -(-starts[-1] // 1024)
    rows = sorted((piece[5], -(-(piece[3] - piece[2]) // 16) * 16) for piece in pieces)
    assert [a + b for a, b in rows] == [a for a, _ in rows[1:]] + [t.kept]
    bases = t.bases.flatten()
    assert all(piece[5] == bases[piece[0]] + piece[2] for piece in pieces)


def test_equal_squares_share_a_call() -> None:
    cut = plan((0, 40, 60, 80, 100), (-1, 0, 0, 0), 100, 1, CUTS,
               torch.device("cpu"))  # fmt: skip
    assert [(r.first, r.last, copies) for r, copies in cut.calls if r.causal] == [
        (0, 60, 1), (60, 80, 2),
    ]  # fmt: skip
    assert cut.tables is None


@pytest.mark.parametrize("heads", [(6, 2), (5, 1), (3, 3)])
def test_any_group_of_heads(heads: tuple[int, int], device: str) -> None:
    check(*random_tree(9, 5), heads=heads, large=10**9, device=device)


def test_rows_of_a_kernels_plan_are_kept_apart(device: str) -> None:
    """Two trees in turn, of one size: a plan belongs to its tree."""
    for tree in (([0, 4, 8], [-1, 0]), ([0, 4, 8], [-1, -1]), ([0, 4, 8], [-1, 0])):
        check(*tree, large=10**9, device=device)


@pytest.mark.parametrize("large", [1, 20, 10**9])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_matches_dense(tree: tuple[list[int], list[int]], large: int, device: str) -> None:
    check(*tree, large=large, device=device)


@pytest.mark.parametrize("tree", ["chain", "two levels"])
@pytest.mark.parametrize(
    ("kept", "together"), [(0, 0), (2**40, 0), (2**40, 2**40)], ids=["none", "a head", "all heads"]
)
def test_kept_or_taken_again(
    tree: str, kept: int, together: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dS kept for all heads, for a head at a time, or not; pieces of a key tile joined."""
    monkeypatch.setattr(tree_kernel, "KEPT", kept)
    monkeypatch.setattr(tree_kernel, "KEPT_TOGETHER", together)
    monkeypatch.setattr(tree_plan, "_PIECE", 16)
    starts, parents = TREES[tree]
    starts = [5 * start for start in starts]
    plan.cache_clear()
    cuts = tree_kernel.shapes(torch.device(device)).cuts(2)
    tables = plan(
        tuple(starts), tuple(parents), 10**9, 1, cuts, torch.device(device)
    ).tables  # fmt: skip
    assert tables is not None
    assert (tables.kept > 0) == (kept > 0)
    check(starts, parents, large=10**9, device=device)
    check(starts, parents, large=1500, device=device)
    plan.cache_clear()


def test_bfloat16(device: str) -> None:
    check(*random_tree(14, 2), large=30, device=device, dtype=torch.bfloat16)


def check(
    starts: list[int], parents: list[int], *, large: int, device: str,
    heads: tuple[int, int] = (4, 2), dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """Output and gradients within a rounding's bound of float64."""
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    width = 16 if device == "cpu" else 64
    bound = 1e-5 if dtype == torch.float32 else 1e-2 if device == "cuda" else 3e-2
    ours, truth = [], []
    for count in (heads[0], heads[1], heads[1]):
        x = torch.randn(starts[-1], count, width, device=device).to(dtype)
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
    with pytest.raises(KernelRefusal, match="rise from 0"):
        tree_attention(x, x, x, [1, 5], [-1])
    with pytest.raises(KernelRefusal, match="the tree has no rows"):
        tree_attention(x, x, x, [], [])
    with pytest.raises(KernelRefusal, match="starts must be integers"):
        tree_attention(x, x, x, [0, 5.0], [-1])  # type: ignore[list-item]
    with pytest.raises(KernelRefusal, match="under its parent 3"):
        tree_attention(x, x, x, [0, 2, 5], [-1, 3])
    with pytest.raises(KernelRefusal, match="key must have 3 dimensions"):
        tree_attention(x, x[:, 0], x, [0, 5], [-1])
    with pytest.raises(KernelRefusal, match="N a multiple of M"):
        tree_attention(x, x[:, :0], x[:, :0], [0, 5], [-1])
    with pytest.raises(KernelRefusal, match="cast first"):
        tree_attention(x, x.half(), x, [0, 5], [-1])
    with pytest.raises(KernelRefusal, match="one device"):
        tree_attention(x, x.to("meta"), x, [0, 5], [-1])
    with pytest.raises(KernelRefusal, match="the tree has 4 rows"):
        tree_attention(x, x, x, [0, 4], [-1])
    with pytest.raises(KernelRefusal, match="N a multiple of M"):
        tree_attention(x[:, :1], x, x, [0, 5], [-1])
    with pytest.raises(KernelRefusal, match="power of two"):
        tree_attention(x[..., :12], x[..., :12], x[..., :12], [0, 5], [-1])
    with pytest.raises(KernelRefusal, match="16 to 128"):
        tree_attention(x[..., :8], x[..., :8], x[..., :8], [0, 5], [-1])


def test_the_choice_by_cost() -> None:
    """Few large rectangles go to the library, hundreds of small ones to the kernel, alone."""
    device = torch.device("cpu")

    def chosen(starts: list[int], parents: list[int]) -> tuple[int, bool]:
        cut = plan(tuple(starts), tuple(parents), None, 64, CUTS, device)
        return sum(copies for _, copies in cut.calls), cut.tables is not None

    assert chosen([0, 16384, *range(17408, 24577, 1024)], [-1] + [0] * 8) == (2, True)
    assert chosen([0, 8192, *range(10240, 24577, 2048)], [-1] + [0] * 8) == (9, False)
    assert chosen(list(range(0, 16385, 4096)), [-1] * 4) == (4, False)
    assert chosen([0, 300, 700, 1000, 1200], [-1, 0, 1, 0]) == (0, True)


def test_deterministic_takes_the_kernel_for_everything(device: str) -> None:
    starts, parents = random_tree(8, 3)
    leaves = [torch.randn(starts[-1], 2, 16, device=device) for _ in range(3)]
    if device == "cuda":
        leaves = [x.bfloat16() for x in leaves]
    want = tree_attention(*leaves, starts, parents, large=10**9)
    assert torch.equal(tree_attention(*leaves, starts, parents, large=1, deterministic=True), want)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(tree_attention(*leaves, starts, parents, large=1), want)
    finally:
        torch.use_deterministic_algorithms(False)


def test_nan_stays_in_its_branch(device: str) -> None:
    """A query that is no number spoils its own row only."""
    starts, parents = TREES["two levels"]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v = (torch.randn(15, 2, 16, device=device).to(dtype) for _ in range(3))
    q[5] = float("nan")
    bad = tree_attention(q, k, v, starts, parents, large=10**9).isnan().flatten(1).any(1)
    assert bad.nonzero().flatten().tolist() == [5]


def test_no_row(device: str) -> None:
    none = torch.zeros(0, 2, 16, device=device).bfloat16()
    assert tree_attention(none, none, none, [0], []).shape == (0, 2, 16)
