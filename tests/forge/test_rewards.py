"""Process, speed and performance; the response alone is scored."""

from __future__ import annotations

import doctest
import math

import pytest

from m2gym.core.errors import InputError
from m2gym.forge import rewards
from m2gym.forge.rewards import (
    ALPHA,
    BETA,
    ProcessSignals,
    combine,
    language_mixing,
    process_reward,
    reasoning_structure,
    speed_reward,
)


def test_doctest():
    assert doctest.testmod(rewards).failed == 0


def test_language_mixing():
    assert language_mixing("plain text, 3.14 and λ") == 0.0
    assert language_mixing("да") == 1.0
    assert language_mixing("ab да") == 0.5
    assert language_mixing("12 !?") == 0.0
    assert language_mixing("да", frozenset({"CYRILLIC"})) == 0.0


@pytest.mark.parametrize(
    ("response", "opened", "good"),
    [
        ("first I look</think>done", True, True),
        ("<think>x</think>done", True, False),
        ("<think>x</think>done", False, True),
        ("  <think>x</think>done", False, True),
        ("y <think>x</think>done", False, False),
        ("x</think>", True, False),
        ("</think>done", True, False),
        ("no reasoning", True, False),
        ("a</think>b</think>c", True, False),
        ("tags only in the prompt do not help", False, False),
    ],
)
def test_structure(response, opened, good):
    assert reasoning_structure(response, opened) is good


def test_process_orders_responses():
    def value(malformed, mixing, structured):
        return process_reward(ProcessSignals(4, malformed, mixing, structured))

    assert value(0, 0, True) > value(0, 0, False) > value(1, 0, False) > value(4, 0, False)
    assert value(0, 0.1, True) < value(0, 0, True)
    assert process_reward(ProcessSignals(0, 0, 0.0, False)) == 0.0


def test_speed_decreases():
    values = [speed_reward(t, 10.0) for t in (0.0, 5.0, 10.0, 100.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert speed_reward(20.0, 10.0, h=lambda x: 1 / (1 + x)) == pytest.approx(1 / 3)


def test_combination():
    assert combine(1.0, 0.2, 0.5) == pytest.approx(ALPHA * 0.2 + BETA * 0.5 + 1.0)
    assert combine(0.0, 0.0, 1.0) == 0.0, "failing fast earns nothing"
    assert combine(0.0, 0.0, 1.0, speed_needs_success=False) == pytest.approx(BETA)


def test_bad_input():
    with pytest.raises(InputError, match="malformed <= calls"):
        ProcessSignals(1, 2, 0.0, True)
    with pytest.raises(InputError, match="baseline > 0"):
        speed_reward(1.0, 0.0)
    with pytest.raises(InputError, match="performance reward is nan"):
        combine(math.nan)
