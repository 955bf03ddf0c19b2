"""Intervals of pass@k and of comparisons by simulation; warnings; forecasts; flakes."""

import numpy as np
import pytest

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Trajectory, Usage
from m2gym.core.verdict import Verdict
from m2gym.report import stats
from m2gym.report.caution import of_comparison, of_score
from m2gym.report.flakes import flake_rate
from m2gym.report.forecast import forecast
from m2gym.report.stats import compare, estimate, estimate_pass, tasks_needed, wilson
from m2gym.report.summary import summarise


@pytest.fixture
def few_patterns(monkeypatch):
    """The tests' p-values are not looked at where thousands of intervals are."""
    monkeypatch.setattr(stats, "PERMUTATIONS", 100)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("tasks", [30, 100])
def test_coverage_of_pass_at_k_on_1000_runs(every, tasks):
    generator = np.random.default_rng(11)
    # chances of a task are Beta(2, 2): E[p²] = 0.3, E[1 − (1 − p)²] = 0.7
    truth, inside = (0.3 if every else 0.7), 0
    for _ in range(1000):
        chances = generator.beta(2, 2, tasks)
        hits = (generator.random((tasks, 4)) < chances[:, None]).astype(float).tolist()
        low, high = estimate_pass(dict(enumerate(map(list, hits))), 2, every=every).interval
        inside += low <= truth <= high
    assert 930 <= inside <= 985


def test_coverage_of_a_comparison_on_1000_runs_and_its_false_alarms(few_patterns):
    generator = np.random.default_rng(5)
    inside = alarms = seen = 0
    for _ in range(1000):
        chances = generator.beta(1.5, 1.5, 60)
        lifted = np.clip(chances + 0.1, 0, 1)
        truth = float((lifted - chances).mean())
        a, b, same = (
            dict(enumerate((generator.random((60, 2)) < c[:, None]).astype(float).tolist()))
            for c in (chances, lifted, chances)
        )
        found = compare(a, b)
        inside += found.interval[0] <= truth <= found.interval[1]
        null = compare(a, same)
        alarms += null.interval[0] > 0 or null.interval[1] < 0
        seen += found.interval[0] > 0
    assert 930 <= inside <= 970
    assert alarms <= 70
    assert 300 <= seen <= 900


def test_the_detectable_difference_is_detected_four_times_of_five(few_patterns):
    generator = np.random.default_rng(8)
    detectable = np.median(
        [compare_normal(generator, 0.0).detectable for _ in range(200)],
    )
    seen = sum(compare_normal(generator, detectable).interval[0] > 0 for _ in range(1000))
    assert 770 <= seen <= 830


def compare_normal(generator, shift):
    gaps = generator.normal(shift, 0.3, 40)
    names = [str(n) for n in range(40)]
    return compare(
        {name: [0.0] for name in names}, dict(zip(names, gaps[:, None].tolist(), strict=True))
    )


def test_pass_at_k_of_everything_passed_is_not_certain():
    found = estimate_pass({"a": [1, 1], "b": [1, 1]}, 2)
    assert found.interval == pytest.approx(wilson(1, 2))
    with pytest.raises(InputError, match="no graded"):
        estimate_pass({}, 1)


def test_tasks_needed_is_the_closed_form():
    # n = ((1.960 + 0.8416) · 0.4 / 0.2)²
    assert tasks_needed(0.2, 0.4) == 32
    with pytest.raises(InputError, match="above 0"):
        tasks_needed(0, 1)


def test_small_samples_are_told():
    few = estimate({str(n): [float(n % 2)] for n in range(8)})
    said = " ".join(of_score(few, 10, {"infra_error": 2}, 2))
    assert "8 tasks leave ±0.28; ±0.1 needs about 96 tasks" in said
    assert "between 0.40 and 0.60" in said
    assert "about normal" in " ".join(of_score(estimate({"a": [0.1], "b": [0.4]}), 2, {}, 0))
    assert of_score(None, 3, {}, 3) == ["nothing was graded: there is no score"]
    many = estimate({str(n): [float(n % 2)] for n in range(400)})
    assert of_score(many, 400, {}, 0) == []
    a = {str(n): [float(n % 2)] for n in range(12)}
    b = {str(n): [float(n % 3 == 0)] for n in range(12)}
    told = " ".join(of_comparison(compare(a, b)))
    assert "would probably have been missed" in told
    assert "to see half of that takes about" in told
    assert "too few tasks differ" in of_comparison(compare(a, a))[0]


def episode(task, reward=1.0, seconds=10.0, cost=0.5, **more):
    return Trajectory(
        id=task, env="e", task=task, task_hash="h", agent="a", verdict=Verdict(reward=reward),
        seconds={"start": 1.0, "agent": seconds - 1}, usage=Usage(prompt_tokens=90,
        completion_tokens=10, cost_usd=cost), **more,
    )  # fmt: skip


def test_a_summary_counts_lost_tries_in_its_cost():
    lost = {"cause": "box", "usage": {"cost_usd": 0.25, "prompt_tokens": 50}, "seconds": {}}
    found = summarise([episode("a"), episode("b", 0.0, retries=(lost,))])
    assert (found.cost_usd, found.tokens) == (1.25, 250)
    twice = summarise([episode("a"), episode("a", 0.0), episode("b"), episode("b")])
    assert {name: one.mean for name, one in twice.passes.items()} == {"pass@2": 1, "pass^2": 0.5}


def test_a_forecast_holds_what_comes_and_says_when_it_guesses():
    seen = [episode(f"t{n}", seconds=8.0 + n % 5, cost=0.1) for n in range(20)]
    found = forecast(seen, 100, 10)
    assert found.cost_usd.expected == pytest.approx(10)
    assert found.seconds.low < 100 < found.seconds.high
    assert found.tokens.expected == 10_000
    assert "a guess" not in found.text()
    one = forecast(seen[:1], 100, 1000)
    assert one.cost_usd.low is None
    assert "a guess" in one.text()
    assert one.seconds.expected == 8
    with pytest.raises(InputError, match="no episode"):
        forecast([], 1, 1)
    generator, inside = np.random.default_rng(2), 0
    for _ in range(1000):
        times = generator.normal(30, 8, 12)
        told = forecast([episode(f"t{n}", seconds=t) for n, t in enumerate(times)], 50, 1)
        inside += told.seconds.low <= generator.normal(30, 8, 50).sum() <= told.seconds.high
    assert 930 <= inside <= 970


def test_flake_rate_closed_form():
    good, bad = Verdict(reward=1.0), Verdict(reward=0.0)
    lost = Verdict(reward=None, status="infra_error")
    found = flake_rate({("a", "1"): [good, bad, good, bad], ("b", "2"): [good, good, lost]})
    # of a's six pairs four disagree
    assert found.rate.mean == pytest.approx((4 / 6 + 0) / 2)
    assert (found.flaky, found.gradings, found.episodes) == (["a"], 6, 2)
    assert flake_rate({("a", "1"): [good, lost]}).rate is None
    assert "unknown" in flake_rate({}).text()
