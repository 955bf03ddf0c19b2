"""Advantages against independent formulas; degenerate groups; bad input."""

from __future__ import annotations

import doctest
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2gym.core.errors import InputError
from m2gym.forge import advantages
from m2gym.forge.advantages import group_advantages, group_baselines, reward_to_go


def test_doctest():
    assert doctest.testmod(advantages).failed == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=1, max_size=20),
    st.sampled_from(["normalised", "centred", "leave_one_out"]),
    st.sampled_from([0.0, 0.25, 1.0]),
)
def test_formula(pairs, kind, fraction):
    groups, rewards = [p[0] for p in pairs], [p[1] / 8 for p in pairs]
    got = group_advantages(rewards, groups, kind=kind, fraction=fraction)
    for index, (group, reward) in enumerate(zip(groups, rewards, strict=True)):
        mine = [r for g, r in zip(groups, rewards, strict=True) if g == group]
        if len(set(mine)) == 1:
            want = reward * (1 - fraction)
        elif kind == "leave_one_out":
            want = reward - fraction * (sum(mine) - reward) / (len(mine) - 1)
        else:
            want = reward - fraction * statistics.fmean(mine)
            if kind == "normalised":
                want /= statistics.stdev(mine) + 1e-6
        assert got.value_S[index] == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_equal_rewards_teach_nothing_and_are_counted():
    got = group_advantages([0.1] * 3 + [1, 0], [0, 0, 0, 1, 1])
    assert got.value_S[:3].tolist() == [0.0, 0.0, 0.0]
    assert (got.groups, got.equal) == (2, 1)
    kept = group_advantages([1.0, 1.0], [0, 0], kind="centred", fraction=0.0)
    assert kept.value_S.tolist() == [1.0, 1.0]


def test_masked_samples_are_no_members():
    got = group_advantages([1, 0, 99], [0, 0, 0], kind="centred", valid=[True, True, False])
    assert got.value_S.tolist() == [0.5, -0.5, 0.0]
    assert got.kept_S.tolist() == [True, True, False]
    assert group_advantages([np.nan], [0], valid=[False]).empty == 1
    assert group_advantages([1.0], [0]).lone == 1


def test_not_finite():
    with pytest.raises(InputError, match="reward of sample 1 is nan"):
        group_advantages([1, np.nan], [0, 0])
    got = group_advantages([1, np.inf, 0], [0, 0, 0], kind="centred", not_finite="mask")
    assert got.kept_S.tolist() == [True, False, True]
    assert got.value_S.tolist() == [0.5, 0.0, -0.5]


def test_reward_to_go_and_its_baseline():
    assert reward_to_go([1, 2, 5, 3], [0, 0, 1, 0], [1, 0]).tolist() == [5, 4, 5, 2]
    assert group_baselines([1.0, 3.0, 7.0], ["a", "a", "b"]).tolist() == [2.0, 2.0, 7.0]
    with pytest.raises(InputError, match="one trajectory"):
        reward_to_go([1], [3], [0])
    with pytest.raises(InputError, match="not finite"):
        reward_to_go([np.nan], [0], [0])


def test_bad_input():
    with pytest.raises(InputError, match="empty group"):
        group_advantages([], [])
    with pytest.raises(InputError, match="2 group ids"):
        group_advantages([1, 2], [0])
    with pytest.raises(InputError, match="fraction"):
        group_advantages([1], [0], fraction=1.5)
    with pytest.raises(InputError, match="kind"):
        group_advantages([1], [0], kind="best")
    with pytest.raises(InputError, match="marks in valid"):
        group_advantages([1], [0], valid=[True, True])
