"""The sampler against the plain inverse of the cumulative distribution."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.sampler import Draw, draw, sample  # noqa: E402


@pytest.mark.parametrize("size", [3, 255, 256, 257, 5000])
def test_a_token_is_where_the_cumulative_sum_passes_u(size):
    torch.manual_seed(size)
    logits = 3 * torch.randn(40, size)
    u = torch.rand(40, dtype=torch.float64)
    token, logprob = sample(logits, torch.full((40,), 1.5, dtype=torch.float64), u)
    p = (logits.double() / 1.5).softmax(-1)
    upto = p.cumsum(-1)
    for n in range(40):
        t = int(token[n])
        assert float(upto[n, t]) >= float(u[n]) - 1e-5
        assert t == 0 or float(upto[n, t - 1]) <= float(u[n]) + 1e-5
        assert float(logprob[n]) == pytest.approx(float(p[n, t].log()), abs=1e-5)


def test_frequencies_are_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(4000, 1)
    u = torch.from_numpy(np.random.default_rng(0).random(4000))
    token, _ = sample(logits, torch.ones(4000, dtype=torch.float64), u)
    share = torch.bincount(token, minlength=4) / 4000
    torch.testing.assert_close(share, logits[0].softmax(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_a_token_without_probability_is_never_drawn(u):
    logits = torch.full((1, 600), -torch.inf)
    logits[0, [300, 310]] = 0.0
    (token,), (logprob,) = draw(logits, [Draw(1.0, 1.0, 0, u)])
    assert token == (300 if u == 0 else 310)
    assert logprob == pytest.approx(np.log(0.5))


def test_greedy_rows_and_cut_rows_stand_beside_drawn_ones():
    torch.manual_seed(0)
    logits = torch.randn(3, 50)
    how = [Draw(0.0, 1.0, 0, 0.9), Draw(0.7, 1.0, 1, 0.9), Draw(0.7, 1e-6, 0, 0.9)]
    tokens, logprobs = draw(logits, how)
    assert tokens == logits.argmax(-1).tolist()
    want = [logits[0].log_softmax(-1), *(logits[1:] / 0.7).log_softmax(-1)]
    assert logprobs == pytest.approx([float(w[t]) for w, t in zip(want, tokens, strict=True)])
