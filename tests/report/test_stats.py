import math
from itertools import combinations, product

import numpy as np
import pytest

from m2gym.core.errors import InputError
from m2gym.report.stats import (
    compare,
    estimate,
    pass_at_k,
    pass_hat_k,
    sign_flip_test,
    sign_test,
    wilson,
)
from m2gym.report.student import t_cdf, t_quantile


@pytest.mark.parametrize(
    ("p", "df", "value"),
    [
        (0.975, 1, 12.706204736),
        (0.975, 2, 4.302652730),
        (0.975, 10, 2.228138852),
        (0.95, 5, 2.015048373),
        (0.975, 1000, 1.962339),
        (0.025, 10, -2.228138852),
    ],
)
def test_t_quantile_is_the_printed_tables(p, df, value):
    assert t_quantile(p, df) == pytest.approx(value, rel=1e-6)


def test_t_cdf_closed_forms():
    for t in (-3.0, -0.5, 0.0, 0.7, 4.0):
        assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
        assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


def test_wilson_published_value():
    # Newcombe 1998, table I: 81 of 263, score interval without continuity correction
    low, high = wilson(81 / 263, 263)
    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_estimate_one_attempt_is_wilson_and_none_is_certain():
    found = estimate({str(i): [1.0] for i in range(12)})
    assert (found.mean, found.method) == (1, "wilson")
    assert found.interval == pytest.approx(wilson(1, 12))
    assert found.interval[0] < 0.8


def test_estimate_of_repeated_attempts_does_not_count_them_as_tasks():
    once = estimate({"a": [1.0], "b": [0.0], "c": [1.0]})
    often = estimate({"a": [1.0] * 50, "b": [0.0] * 50, "c": [1.0] * 50})
    assert often.interval == pytest.approx(once.interval)
    mixed = estimate({"a": [1.0, 0.0] * 25, "b": [0.0, 1.0] * 25, "c": [1.0, 0.0] * 25})
    assert mixed.interval == pytest.approx(wilson(0.5, 150))


def test_estimate_of_graded_rewards_is_t_over_task_means():
    found = estimate({"a": [0.2, 0.4], "b": [0.5], "c": [0.9, 0.7]})
    half = 4.302652730 * np.std([0.3, 0.5, 0.8], ddof=1) / math.sqrt(3)
    assert found.interval == pytest.approx((1.6 / 3 - half, 1.6 / 3 + half))
    assert estimate({"a": [0.3]}).interval is None
    assert estimate({"a": [0.3], "b": [0.3]}).interval is None
    assert estimate({}) is None
    assert estimate({"a": []}) is None


@pytest.mark.parametrize(("tasks", "attempts"), [(30, 1), (30, 4), (100, 2)])
@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_coverage_of_clustered_pass_rates(tasks, attempts, rate):
    generator = np.random.default_rng(7)
    inside = 0
    for _ in range(1000):
        # a beta-binomial: tasks differ in difficulty, attempts at one task are alike
        chances = generator.beta(rate * 2, (1 - rate) * 2, tasks)
        hits = (generator.random((tasks, attempts)) < chances[:, None]).astype(float)
        low, high = estimate({str(i): row for i, row in enumerate(hits.tolist())}).interval
        inside += low <= rate <= high
    # exactly 93.0 % for 30 single attempts at 0.3, as binomial counts are discrete
    assert 912 <= inside <= 985


def test_coverage_of_continuous_rewards():
    generator = np.random.default_rng(3)
    inside = 0
    for _ in range(1000):
        means = generator.normal(0.4, 0.2, 12)
        rewards = generator.normal(means[:, None], 0.3, (12, 3)).tolist()
        low, high = estimate({str(i): row for i, row in enumerate(rewards)}).interval
        inside += low <= 0.4 <= high
    assert 930 <= inside <= 970


def test_pass_at_k_is_the_average_over_all_subsets():
    attempts = [1.0, 0.0, 0.0, 1.0, 0.0]
    for k in range(1, 6):
        subsets = list(combinations(attempts, k))
        assert pass_at_k({"a": attempts}, k) == pytest.approx(np.mean([max(s) for s in subsets]))
        assert pass_hat_k({"a": attempts}, k) == pytest.approx(np.mean([min(s) for s in subsets]))
    assert pass_at_k({"a": [1, 0], "b": [0, 0]}, 1) == 0.25
    with pytest.raises(InputError, match="task 'a' has 2"):
        pass_at_k({"a": [1, 0]}, 3)


def test_sign_test_closed_form():
    assert sign_test(0, 0) == 1
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(3, 1) == pytest.approx(2 * 5 / 16)
    assert sign_test(2, 2) == 1


def test_sign_flip_test_against_enumeration():
    differences = [0.5, -0.25, 0.75, 0.1, 0.3]
    sums = [
        abs(sum(s * abs(d) for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=5)
    ]
    expected = np.mean([s >= sum(differences) - 1e-9 for s in sums])
    assert sign_flip_test(differences) == pytest.approx(expected)
    assert sign_flip_test([0.0, 0.0]) == 1
    assert sign_flip_test([1.0, 1.0, -1.0, 0.0]) == sign_test(2, 1)


def test_sign_flip_test_is_uniform_when_nothing_differs():
    generator = np.random.default_rng(1)
    values = [sign_flip_test(generator.normal(0, 1, 10).tolist()) for _ in range(400)]
    assert 0.02 <= np.mean([v <= 0.05 for v in values]) <= 0.085
    large = sign_flip_test(generator.normal(0, 1, 40).tolist(), seed=5)
    assert 0 < large <= 1


def test_compare_pairs_by_task():
    a = {"x": [0.0, 0.0], "y": [1.0], "z": [0.0], "only": [1.0], "masked": []}
    b = {"x": [1.0], "y": [1.0], "z": [0.0], "other": [0.0]}
    found = compare(a, b)
    assert (found.better, found.worse, found.equal) == (1, 0, 2)
    assert (found.tasks, found.only_a, found.only_b) == (3, 1, 1)
    assert found.difference == pytest.approx(1 / 3)
    half = 4.302652730 / 3
    assert found.interval == pytest.approx((1 / 3 - half, 1 / 3 + half))
    assert compare(b, a).difference == pytest.approx(-1 / 3)
    with pytest.raises(InputError, match="no graded task in common"):
        compare({"a": [1.0]}, {"b": [1.0]})


def test_without_spread_only_the_tests_speak():
    found = compare({str(i): [0.0] for i in range(4)}, {str(i): [1.0] for i in range(4)})
    assert (found.difference, found.interval, found.detectable) == (1, None, None)
    assert found.p_value == found.sign_p_value == 0.125


def test_detectable_difference_is_seen_with_the_power_it_says():
    generator = np.random.default_rng(2)
    spread = 0.4
    first = compare(
        {str(i): [0.0] for i in range(40)},
        {str(i): [d] for i, d in enumerate(generator.normal(0, spread, 40))},
    )
    truth = 2.868 * spread / math.sqrt(40)
    assert first.detectable == pytest.approx(truth, rel=0.35)
    seen = 0
    for _ in range(300):
        b = {str(i): [d] for i, d in enumerate(generator.normal(truth, spread, 40))}
        low, _ = compare({key: [0.0] for key in b}, b).interval
        seen += low > 0
    assert 0.72 <= seen / 300 <= 0.88
