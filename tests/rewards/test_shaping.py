"""Potential-based shaping leaves the optimum where it was (Ng, Harada, Russell 1999)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import EpisodeOverError, InputError, VerifierError
from m2gym.rewards.shaping import PotentialShaping


def optimal(rewards_S_A_S: np.ndarray, moves_S_A_S: np.ndarray, gamma: float) -> np.ndarray:
    """Q* by value iteration; the last state is terminal."""
    values_S = np.zeros(len(moves_S_A_S))
    for _ in range(600):
        q_S_A = (moves_S_A_S * (rewards_S_A_S + gamma * values_S)).sum(-1)
        values_S = q_S_A.max(1)
        values_S[-1] = 0.0
    return q_S_A[:-1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 4))
def test_best_policies_of_random_processes_are_unchanged(seed: int, states: int, acts: int) -> None:
    rng = np.random.default_rng(seed)
    gamma = float(rng.uniform(0.3, 0.95))
    size = (states + 1, acts, states + 1)
    moves = rng.dirichlet(np.ones(states + 1), size=size[:2])
    rewards = rng.normal(size=size)
    phi = rng.normal(scale=5.0, size=states + 1)
    shaped = rewards.copy()
    for s in range(states):
        for s_next in range(states + 1):
            shaping = PotentialShaping(lambda state: float(phi[state]), gamma)
            shaping.reset(s)
            shaped[s, :, s_next] += shaping.step(s_next, terminal=s_next == states)
    plain_q, shaped_q = optimal(rewards, moves, gamma), optimal(shaped, moves, gamma)
    np.testing.assert_allclose(shaped_q, plain_q - phi[:-1, None], atol=1e-6)
    assert (plain_q.argmax(1) == shaped_q.argmax(1)).all()


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_undiscounted_return_is_moved_by_the_same_constant(path: list[float]) -> None:
    shaping = PotentialShaping(lambda state: state)
    shaping.reset(path[0])
    last = len(path) - 1
    total = sum(shaping.step(s, terminal=n == last) for n, s in enumerate(path) if n)
    assert total == pytest.approx(-path[0], abs=1e-9)


def test_use_outside_an_episode_and_bad_values_are_refused() -> None:
    shaping = PotentialShaping(lambda state: state)
    with pytest.raises(EpisodeOverError, match="reset"):
        shaping.step(1.0)
    shaping.reset(1.0)
    shaping.step(2.0, terminal=True)
    with pytest.raises(EpisodeOverError):
        shaping.step(1.0)
    with pytest.raises(VerifierError, match="finite"):
        shaping.reset(float("inf"))
    with pytest.raises(InputError, match="gamma"):
        PotentialShaping(lambda state: 0.0, gamma=1.5)
