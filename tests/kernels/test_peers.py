"""The peers that are written here compute what ours compute."""

from __future__ import annotations

import pytest
import torch

from m2gym.kernels.experts import experts
from m2gym.kernels.peers import eager, scattered
from tests.kernels.test_experts import inputs


def test_the_scattered_split(device: str) -> None:
    case = inputs(21, 64, 32, 5, 2, torch.float32, device)
    got = scattered(*case.values(), tile=(16, 16, 16, 4, 1))
    torch.testing.assert_close(got, experts(*case.values()), rtol=1e-4, atol=1e-4)


def test_transformers_eager_experts(device: str) -> None:
    pytest.importorskip("transformers")
    case = inputs(9, 32, 16, 5, 2, torch.float32, device)
    gate_up = case["gate_up"].requires_grad_()
    got = eager((32, 16, 5, 2))(*case.values())
    torch.testing.assert_close(got, experts(*case.values()), rtol=1e-4, atol=1e-4)
    got.sum().backward()
    assert gate_up.grad is not None
