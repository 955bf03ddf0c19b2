"""The worked examples in the kernels' docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["router", "support", "tree_kernel", "tree_plan", "tuning"])
def test_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"m2gym.kernels.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
