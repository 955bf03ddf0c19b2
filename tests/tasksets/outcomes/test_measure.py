"""What equal runs agree on."""

from __future__ import annotations

from m2gym.tasksets.outcomes.measure import Outcomes, agreed


def run(seconds: float = 1.0, **tests: str) -> Outcomes:
    return Outcomes(tests, {name: "why" for name, how in tests.items() if how == "failed"}, seconds)


def test_a_test_that_changes_between_equal_runs_judges_nothing():
    same = {"mended": "passed", "kept": "passed"}
    good = [run(coin="passed", toss="passed", **same), run(coin="failed", toss="passed", **same)]
    before = {"mended": "failed", "kept": "passed", "coin": "failed"}
    bad = [run(toss="failed", **before), run(toss="passed", **before)]
    found = agreed(good, bad)
    assert found.fail_to_pass == ("mended",)
    assert found.green == ("toss", "mended", "kept")
    assert found.not_kept == ("toss",)
    assert found.pass_to_pass == 1
    assert found.flaky == ("coin", "toss")


def test_an_id_that_is_new_in_each_run_judges_nothing():
    good = [run(one="passed", kept="passed"), run(two="passed", kept="passed")]
    found = agreed(good, [run(three="failed", kept="passed"), run(four="failed", kept="passed")])
    assert (found.green, found.fail_to_pass) == (("kept",), ())
    assert found.flaky == ("four", "one", "three", "two")


def test_a_test_that_is_not_there_without_the_fix_fails_there():
    found = agreed([run(new="passed"), run(new="passed")], [run(), run()])
    assert found.fail_to_pass == ("new",)


def test_seconds_are_the_median_of_all_runs():
    good, bad = [run(1.0, t="passed"), run(2.0, t="passed")], [run(9.0, t="failed")]
    assert agreed(good, bad).seconds == 2.0
