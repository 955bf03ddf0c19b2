"""Products by oneDNN against torch's own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.products import WORTH, linear  # noqa: E402


@pytest.mark.parametrize(("tokens", "outputs"), [(3, 5), (1 + WORTH // (24 * 40), 40)])
@pytest.mark.parametrize("turned", [False, True], ids=["straight", "turned"])
def test_values_and_gradients_are_those_of_torch(tokens, outputs, turned):
    torch.manual_seed(0)
    x = torch.randn(24, tokens).t() if turned else torch.randn(tokens, 24)
    weight = torch.randn(24, outputs).t() if turned else torch.randn(outputs, 24)
    slope = torch.randn(tokens, outputs)
    found = []
    for product in (linear, torch.nn.functional.linear):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = product(a, b)
        out.backward(slope)
        found.append((out, a.grad, b.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_other_types_of_number_and_inputs_without_gradient_are_served():
    x, weight = torch.randn(1 + WORTH // 800, 20), torch.randn(40, 20, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(40, 20), atol=1e-2, rtol=1e-4)
    assert linear(x.double(), weight.double()).dtype == torch.float64
