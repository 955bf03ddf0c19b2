"""Decoding over shared nodes of any shape, against attention over each row's whole history."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.attention import plain_block  # noqa: E402
from m2gym.backends.local.batch import batches  # noqa: E402
from m2gym.backends.local.store import Shape, Store  # noqa: E402

HEADS, KEYS, WIDTH = 4, 2, 8


def opened(store, prompts, sessions=None):
    """Rows of these prompts, their nodes and own tokens filled with random keys and values."""
    rows = []
    for n, prompt in enumerate(prompts):
        others = [np.array(p, np.int64) for p in prompts[n + 1 :]]
        row = store.open(np.array(prompt, np.int64), f"{sessions or 's'}{n}", others)
        rows.append(row)
    store.reserve(max(len(prompt) for prompt in prompts))
    for node in store.nodes():
        if not node.filled:
            for held in (*node.k, *node.v):
                held.normal_()
            node.filled = len(node.ids)
    for row, prompt in zip(rows, prompts, strict=True):
        for held in (*store.k, *store.v):
            held[row.slot].normal_()
        row.ids = list(prompt[row.base : -1])
    return rows


def whole(store, row, layer):
    """Keys and values of a row's whole history."""
    nodes = row.prefix()
    return [
        torch.cat([*(getattr(n, kind)[layer] for n in nodes), held[row.slot, :, : len(row.ids)]], 1)
        for kind, held in (("k", store.k[layer]), ("v", store.v[layer]))
    ]


def check(store, batch):
    """One pass of random queries, keys and values; afterwards the store holds them."""
    rows = batch.rows
    batch.reserve()
    positions = batch.begin()
    assert positions.tolist() == [row.base + len(row.ids) for row in rows]
    for layer in range(store.shape.layers):
        before = [whole(store, row, layer) for row in rows]
        q, k, v = (torch.randn(n, len(rows), WIDTH) for n in (HEADS, KEYS, KEYS))
        out = batch.attend(layer, q, k, v, 0.3)
        for n, (old_k, old_v) in enumerate(before):
            mine_k = torch.cat([old_k, k[:, n : n + 1]], 1).repeat_interleave(HEADS // KEYS, 0)
            mine_v = torch.cat([old_v, v[:, n : n + 1]], 1).repeat_interleave(HEADS // KEYS, 0)
            want, _ = plain_block(q[None, :, n : n + 1], mine_k[None], mine_v[None], 0.3)
            torch.testing.assert_close(out[:, n], want[0, :, 0], atol=1e-5, rtol=1e-4)
    batch.done([7] * len(rows))


@pytest.fixture
def store():
    torch.manual_seed(0)
    return Store(
        Shape(2, KEYS, WIDTH, WIDTH, torch.float32, torch.device("cpu")), rows=12, tokens=5000
    )


def ids(n, seed):
    return np.random.default_rng(seed).integers(1, 1000, n).tolist()


def test_rows_of_two_depths_with_nodes_of_many_lengths_and_one_row_outside(store):
    shots = ids(40, 0)
    questions = [[*shots, *ids(n, n)] for n in (20, 33, 90)]
    prompts = [questions[n] + ids(3 + m, 50 + 10 * n + m) for m in range(2) for n in range(3)]
    rows = opened(store, [*prompts, ids(25, 9)])
    batch = batches(store, rows)[0]
    assert len(batch.shared) == 3, "one product for the root, two for questions of two lengths"
    for _ in range(30):
        check(store, batch)


def test_what_remains_of_a_batch_moves_to_the_first_places_and_copies_serve_on(store):
    prompts = [[*ids(30, n % 2), *ids(5, 20 + n)] for n in range(8)]
    rows = opened(store, prompts)
    batch = batches(store, rows)[0]
    check(store, batch)
    for row in rows[:6:2]:
        store.close(row, keep=row is rows[2])
    kept, held = rows[2], whole(store, rows[2], 1)
    left = [row for row in rows if row not in rows[:6:2]]
    after = batches(store, left, last=[batch])[0]
    assert sorted(row.slot for row in left) == list(range(5))
    assert after.shared[0].copies is batch.shared[0].copies
    for mine, then in zip(whole(store, kept, 1), held, strict=True):
        assert torch.equal(mine, then), "who had a first place has all it held in another"
    assert len({row.slot for row in [*left, kept]}) == 6
    check(store, after)
    more = opened(store, [ids(12, 70 + n) for n in range(3)], "t")
    check(store, batches(store, [*left, *more], last=[after])[0])


def test_batches_that_cover_the_rows_keep_to_their_own(store):
    shots = ids(30, 0)
    rows = opened(store, [[*shots, *ids(n, n)] for n in (4, 9, 2, 17, 31)])
    made = batches(store, rows, 2)
    assert [len(batch.rows) for batch in made] == [3, 2]
    assert {id(row) for batch in made for row in batch.rows} == {id(row) for row in rows}
    for _ in range(3):
        for batch in made:
            batch.reserve()
        for batch in made:
            check(store, batch)
    again = batches(store, rows, 2, made)
    assert len({id(batch.shared[0].copies) for batch in (*made, *again)}) == 1
