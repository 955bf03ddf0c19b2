"""The benchmark of training steps: what it says of a way that has no figure."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.bench_step import Work, run


def test_a_way_that_fails_is_a_row_that_says_so():
    row = next(run([Work("no-such-shape", 1, 2, 4, 2)]))
    assert row["what"] == "training step, m2gym, no-such-shape, 1 × 2 × (4 + 2)"
    assert "ended with 1" in row["failed"]
    assert "seconds" not in row
