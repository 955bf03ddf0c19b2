"""Reward functions by name: their arguments, their parameters, what they return."""

from __future__ import annotations

import doctest

import pytest

from m2gym.core.artifacts import Artifacts
from m2gym.core.errors import InputError, UnknownIdError, VerifierError
from m2gym.core.registry import REWARDS
from m2gym.core.task import RewardSpec, Task
from m2gym.core.verdict import Score
from m2gym.rewards import check_rewards, combine, reward, shaping
from m2gym.rewards.functions import GradedArtifacts, UnusableArtifactError, call


@reward("test-length")
async def length(task: Task, artifacts: Artifacts, limit: int, path: str = "a.txt") -> float:
    return min(len(artifacts[path]), limit) / limit


def task(*rewards: RewardSpec) -> Task:
    return Task(id="t", instruction="", rewards=rewards)


async def test_arguments_come_by_name_and_parameters_from_the_spec() -> None:
    given = {"task": task(), "artifacts": GradedArtifacts({"a.txt": b"12345"}), "workspace": None}
    spec = RewardSpec(name="test-length", parameters={"limit": 10})
    assert (await call(spec, given)).value == 0.5
    wrong = RewardSpec(name="test-length", parameters={"limit": 10, "path": "b.txt"})
    score = await call(wrong, given)
    assert score.value == 0.0
    assert "b.txt" in score.evidence["error"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (RewardSpec(name="test-length"), "needs parameter 'limit'"),
        (RewardSpec(name="test-length", parameters={"limit": 1, "lim": 2}), "no parameter 'lim'"),
        (RewardSpec(name="test-length", parameters={"limit": "ten"}), "limit.*integer"),
        (RewardSpec(name="tests-pass", parameters={"fail_to_pass": "x"}), "pass_to_pass"),
        (
            RewardSpec(name="tests-pass", parameters={"fail_to_pass": [], "pass_to_pass": [3]}),
            r"pass_to_pass\[0\].*string",
        ),
        (RewardSpec(name="test-length", weight=float("inf")), "weight"),
    ],
)
def test_what_does_not_fit_is_named_before_the_episode(spec: RewardSpec, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_rewards(task(spec))


def test_tasks_without_reward_and_unknown_rewards_are_refused() -> None:
    with pytest.raises(InputError, match="no reward"):
        check_rewards(task())
    with pytest.raises(UnknownIdError, match="tests-pass"):
        check_rewards(task(RewardSpec(name="tests-pas")))


def test_arguments_that_cannot_be_named_are_refused() -> None:
    with pytest.raises(InputError, match="by name"):

        @reward("test-bad")
        def bad(*values: float) -> float:
            return sum(values)

    assert "test-bad" not in REWARDS


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, [1]])
async def test_only_finite_numbers_are_scores(value: object) -> None:
    @reward("test-returns")
    def returns() -> object:
        return value

    with pytest.raises(VerifierError, match="finite number"):
        await call(RewardSpec(name="test-returns"), {})


def test_artifacts_of_an_agent_that_lack_or_do_not_parse() -> None:
    files = GradedArtifacts({"a.json": b"{"})
    assert files.get("none") is None
    with pytest.raises(UnusableArtifactError, match="no artifact 'none'"):
        files["none"]
    with pytest.raises(UnusableArtifactError, match="does not parse"):
        files.open("a.json")


def test_scores_are_summed_by_weight_and_a_forged_one_voids_the_sum() -> None:
    scores = [("a", 1.0, Score(value=0.5)), ("b", -0.25, Score(value=2.0))]
    assert combine(scores) == 0.0
    assert combine([*scores, ("c", 3.0, Score(value=1.0))]) == 3.0
    assert combine([*scores, ("c", 3.0, Score(value=1.0, forged=True))]) == 0.0
    with pytest.raises(VerifierError, match="sum"):
        combine([("a", 1e308, Score(value=10.0)), ("b", 1e308, Score(value=10.0))])


def test_examples_in_docstrings_hold() -> None:
    import sys

    for module in (sys.modules["m2gym.rewards.combine"], shaping):
        assert doctest.testmod(module).attempted > 0
        assert doctest.testmod(module).failed == 0
