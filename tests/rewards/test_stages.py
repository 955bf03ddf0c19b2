"""What the verdicts of a task's stages make together."""

from __future__ import annotations

import pytest

from m2gym.core.errors import VerifierError
from m2gym.core.verdict import Score, Verdict
from m2gym.rewards.stages import combined, reached


def told(
    reward: float, /, status: str = "ok", isolation: str = "fresh", **numbers: float
) -> Verdict:
    evidence = {"rewards": numbers} if numbers else {}
    scores = {"test-script": Score(value=reward, evidence=evidence, forged=status == "forged")}
    return Verdict.model_validate(
        {"reward": reward, "scores": scores, "status": status, "isolation": isolation}
    )


def test_each_number_is_averaged_and_a_missing_one_is_0() -> None:
    stages = {"a": told(1.0, reward=1.0, speed=0.5), "b": told(0.5, reward=0.5)}
    verdict = combined(stages, "mean", stop="submitted")
    assert (verdict.reward, verdict.status, verdict.stop) == (0.75, "ok", "submitted")
    assert {name: score.value for name, score in verdict.scores.items()} == {"a": 1.0, "b": 0.5}
    assert verdict.evidence == {"stages": {"a": 1.0, "b": 0.5}, "not_reached": []}


def test_stages_that_were_never_reached_count_as_0() -> None:
    verdict = combined({"a": told(1.0)}, "mean", never=["b", "c"])
    assert verdict.reward == pytest.approx(1 / 3)
    assert combined({"a": told(1.0)}, "final", never=["b"]).reward == 0.0


def test_the_final_one_may_stand_for_all() -> None:
    assert combined({"a": told(0.0), "b": told(1.0)}, "final").reward == 1.0


def test_a_forged_stage_makes_the_whole_forged_and_a_shared_one_shared() -> None:
    stages = {"a": told(1.0, isolation="shared"), "b": told(0.0, "forged")}
    verdict = combined(stages, "mean")
    assert (verdict.reward, verdict.status, verdict.isolation) == (0.0, "forged", "shared")


def test_an_agents_failure_is_told() -> None:
    stages = {"a": told(0.0, "agent_error"), "b": told(1.0)}
    verdict = combined(stages, "mean")
    assert (verdict.reward, verdict.status) == (0.5, "agent_error")


def test_several_numbers_need_one_named_reward() -> None:
    with pytest.raises(VerifierError, match="none is named 'reward'"):
        combined({"a": told(1.0, x=1.0), "b": told(1.0, y=1.0)}, "mean")


@pytest.mark.parametrize(
    ("least", "fine"),
    [({}, True), ({"reward": 0.5}, True), ({"reward": 0.6}, False), ({"speed": 2.0}, True),
     ({"reward": 0.5, "speed": 2.1}, False), ({"other": 0.0}, False)],
)  # fmt: skip
def test_thresholds(least: dict[str, float], fine: bool) -> None:
    assert reached(told(0.5, reward=0.5, speed=2.0), least) is fine
