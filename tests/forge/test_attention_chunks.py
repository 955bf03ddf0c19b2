"""Chunks agree with the dense reference, forward and backward, wherever they are cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import InputError
from m2gym.forge.attention import tree_attention
from m2gym.forge.attention_chunks import chunk_attention, chunks
from m2gym.forge.layout import Layout
from m2gym.forge.tree import build_tree
from tests.forge.strategies import sample_lists
from tests.forge.test_attention import qkv


@settings(max_examples=40, deadline=None)
@given(sample_lists(), st.sampled_from([(4, 4), (4, 2), (3, 1)]), st.integers(1, 12))
def test_chunks_equal_dense(samples, heads, limit):
    layout = build_tree(samples).layout
    found = []
    for way in ("dense", "chunks"):
        q, k, v = qkv(layout.tokens, heads=heads[0], kv=heads[1])
        if way == "dense":
            out = tree_attention(q, k, v, layout, scale=0.3)
        else:
            out = chunk_attention(q, k, v, chunks(layout, limit), 0.3)
        (out * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
        found.append([out.detach(), q.grad, k.grad, v.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_every_query_is_in_one_chunk_and_none_is_larger_than_asked():
    layout = Layout.from_parents([-1, 0, 1, 1, 0, 0, -1], [5, 3, 4, 2, 1, 1, 30])
    cut = chunks(layout, 7)
    rows = np.concatenate([np.arange(c.first, c.last) for c in cut])
    assert (rows == np.arange(layout.tokens)).all()
    assert max(c.last - c.first for c in cut) <= 7
    assert len(chunks(layout, 1000)) == 1


def test_a_chunk_needs_room():
    with pytest.raises(InputError, match="at least 1"):
        chunks(Layout.from_parents([-1], [3]), 0)
