import pytest

from m2gym.core.verdict import Score, Verdict
from m2gym.rollout.validate import check


def episodes(record, *rewards, status="ok"):
    return [record("a", i, reward=r, status=status) for i, r in enumerate(rewards)]


def test_right(record):
    found = check("a", episodes(record, 1.0, 1.0), episodes(record, 0.0, 0.0))
    assert found.ok
    assert (found.gold, found.noop) == ([1, 1], [0, 0])


@pytest.mark.parametrize(
    ("gold", "noop", "says"),
    [
        ((0.5, 0.5), (0.0, 0.0), "gold scores 0.5, not 1"),
        ((1.0, 1.0), (1.0, 1.0), "solved before it begins"),
        ((1.0, 1.0), (0.0, 0.25), "noop got 2 different verdicts"),
        ((1.0, 0.0), (0.0, 0.0), "gold got 2 different verdicts"),
    ],
)
def test_wrong(record, gold, noop, says):
    found = check("a", episodes(record, *gold), episodes(record, *noop))
    assert any(says in problem for problem in found.problems)


def test_an_agent_error_and_a_lost_box_are_problems_with_their_cause(record):
    failed = [record("a", 0, reward=1.0, status="agent_error", error="no reference")]
    lost = [record("a", 0, reward=None, status="infra_error", error="disk full")]
    found = check("a", failed, lost)
    assert found.problems == ["noop was not graded: disk full", "gold failed: no reference"]


def test_equal_rewards_from_other_scores_differ(record):
    def scored(value, attempt):
        verdict = Verdict(reward=0.0, scores={"tests": Score(value=value)})
        return record("a", attempt, verdict=verdict)

    found = check("a", episodes(record, 1.0), [scored(0.1, 0), scored(0.2, 1)])
    assert found.problems == ["noop got 2 different verdicts"]
