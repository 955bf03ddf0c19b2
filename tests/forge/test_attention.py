"""Backends agree with the dense reference, forward and backward."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.forge.attention import tree_attention
from m2gym.forge.layout import Layout
from m2gym.forge.tree import build_tree
from tests.forge.strategies import sample_lists


def qkv(tokens, heads=4, kv=2, dim=8, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    make = [torch.randn(h, tokens, dim, generator=g, dtype=torch.float64) for h in (heads, kv, kv)]
    return [m.to(dtype).requires_grad_() for m in make]


def run(layout, backend, dtype=torch.float64, **kw):
    q, k, v = qkv(layout.tokens, dtype=dtype, **kw)
    out = tree_attention(q, k, v, layout, backend=backend)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (out * weight).sum().backward()
    return [out.detach(), q.grad, k.grad, v.grad]


@settings(max_examples=40, deadline=None)
@given(sample_lists(), st.sampled_from([(4, 4), (4, 2), (3, 1)]))
def test_rectangles_equal_dense(samples, heads):
    layout = build_tree(samples).layout
    kw = {"heads": heads[0], "kv": heads[1]}
    for a, b in zip(run(layout, "dense", **kw), run(layout, "rectangles", **kw), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_flex_equals_dense_forward():
    layout = Layout.from_parents([-1, 0, 1, 1, 0, -1], [5, 3, 4, 2, 6, 3])
    q, k, v = (t.detach().float() for t in qkv(layout.tokens))
    dense = tree_attention(q, k, v, layout, backend="dense")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uncompiled FlexAttention says that it is slow
        flex = tree_attention(q, k, v, layout, backend="flex")
    torch.testing.assert_close(dense, flex, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(sample_lists())
def test_flex_equals_dense_forward_and_backward(samples):
    """On a CPU torch refuses FlexAttention's backward, although its plain form has one: the test
    lifts that refusal, nothing else."""
    import torch.nn.attention.flex_attention as flex

    layout = build_tree(samples).layout
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(flex, "_validate_device", lambda *_: None)
        got = run(layout, "flex", dtype=torch.float32)
    for a, b in zip(run(layout, "dense", dtype=torch.float32), got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_flex_without_a_backward_says_what_to_use():
    layout = Layout.from_parents([-1, 0], [3, 2])
    with pytest.raises(InputError, match="rectangles"):
        tree_attention(*qkv(5, dtype=torch.float32), layout, backend="flex")


def test_dense_equals_each_branch_alone():
    layout = Layout.from_parents([-1, 0, 1, 0], [3, 2, 2, 4])
    q, k, v = (t.detach() for t in qkv(layout.tokens))
    out = tree_attention(q, k, v, layout)
    for rows in ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 7, 8, 9, 10]):
        alone = torch.nn.functional.scaled_dot_product_attention(
            q[:, rows], k[:, rows], v[:, rows], is_causal=True, enable_gqa=True
        )
        torch.testing.assert_close(out[:, rows], alone)


def test_bfloat16_rectangles_are_no_worse_than_dense():
    layout = Layout.from_parents([-1] + [0] * 6, [40] + [9] * 6)
    truth = run(layout, "dense")
    dense, rect = (run(layout, b, dtype=torch.bfloat16) for b in ("dense", "rectangles"))
    for t, d, r in zip(truth, dense, rect, strict=True):
        error = [float((x.double() - t).norm() / t.norm()) for x in (d, r)]
        assert error[1] < 0.02
        assert error[1] <= error[0] * 1.2


def test_gradient_matches_finite_differences():
    layout = Layout.from_parents([-1, 0, 0], [2, 2, 1])
    q, k, v = qkv(layout.tokens, heads=2, kv=1, dim=3)
    assert torch.autograd.gradcheck(
        lambda q, k, v: tree_attention(q, k, v, layout, backend="rectangles"), (q, k, v)
    )


def test_bad_input():
    layout = Layout.from_parents([-1], [4])
    q, k, v = qkv(5)
    with pytest.raises(InputError, match="4 tokens"):
        tree_attention(q, k, v, layout)
    q, k, v = qkv(4, heads=3, kv=2)
    with pytest.raises(InputError, match="no multiple"):
        tree_attention(q, k, v, layout)
    q, k, v = qkv(4)
    with pytest.raises(UnknownIdError, match="dense"):
        tree_attention(q, k, v, layout, backend="dens")
    assert np.isfinite(tree_attention(q, k, v, layout).detach().numpy()).all()
