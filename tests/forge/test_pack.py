"""Packing: every sample once, budgets held, siblings together, costs those of the built tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import InputError
from m2gym.forge.pack import Budget, pack
from m2gym.forge.tree import Sample, build_tree
from tests.forge.strategies import sample_lists


@settings(max_examples=150, deadline=None)
@given(sample_lists(most=14, vocabulary=3), st.integers(8, 60), st.booleans())
def test_every_sample_once_within_the_budget(samples, tokens, bound_pairs):
    budget = Budget(tokens, tokens * 6 if bound_pairs else None)
    packing = pack(samples, budget, oversize="mask")
    seen = [i for batch in packing.micro_batches for i in batch.samples]
    assert sorted([*seen, *packing.masked]) == list(range(len(samples)))
    for batch in packing.micro_batches:
        tree = build_tree([samples[i] for i in batch.samples])
        assert budget.holds(batch.tokens, batch.pairs)
        assert tree.tokens <= batch.tokens, "chunks of one group may meet again and share more"
        assert tree.layout.pairs <= batch.pairs
    for index in packing.masked:
        n = len(samples[index].ids_T)
        assert not budget.holds(n, n * (n + 1) // 2)


def test_siblings_meet_whatever_their_order():
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 50, (5, 30))
    samples = [Sample.of(p, rng.integers(0, 50, 5)) for p in prompts for _ in range(4)]
    mixed = [samples[i] for i in rng.permutation(20)]
    packing = pack(mixed, Budget(50))
    assert len(packing.micro_batches) == 5
    assert packing.tokens <= 5 * 50
    naive = sum(len(s.ids_T) for s in mixed)
    assert packing.tokens < naive / 2


def test_a_group_too_large_is_cut_between_neighbours():
    samples = [Sample.of(range(20), [100 + n] * 5) for n in range(8)]
    packing = pack(samples, Budget(40))
    assert [b.tokens for b in packing.micro_batches] == [40, 40]


def test_oversize():
    samples = [Sample.of([1] * 9, [2]), Sample.of([1], [2])]
    with pytest.raises(InputError, match=r"sample 0 needs 10 tokens.*oversize='mask'"):
        pack(samples, Budget(5))
    assert pack(samples, Budget(5), oversize="mask").masked == (0,)
    with pytest.raises(InputError, match="at least one sample"):
        pack([], Budget(5))
    with pytest.raises(InputError, match="at least 1"):
        Budget(0)
