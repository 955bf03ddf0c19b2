from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Verdict
from m2gym.report.stats import compare
from m2gym.report.summary import rewards_by_task, summarise
from m2gym.report.table import comparison_table, summary_html, summary_table, to_text


def trajectory(task, reward, status="ok", attempt=0, agent="gold"):
    return Trajectory(
        id=f"{task}-{attempt}",
        env="e",
        task=task,
        task_hash="h",
        agent=agent,
        attempt=attempt,
        seconds={"start": 0.5, "agent": 1.0, "grade": 0.5},
        verdict=Verdict(reward=reward, status=status),
        error=None if status == "ok" else "why",
    )


def test_masked_episodes_are_counted_and_in_no_mean():
    found = summarise(
        [
            trajectory("a", 1.0),
            trajectory("b", 0.0, "agent_error"),
            trajectory("c", None, "infra_error"),
            trajectory("d", None, "verifier_error"),
        ]
    )
    assert (found.episodes, found.graded, found.masked) == (4, 2, 2)
    assert found.estimate.mean == 0.5
    assert found.seconds == 2.0
    text = to_text(summary_table([found]), width=140)
    assert "1 infra_error, 1 verifier_error" in text
    assert "2 episode(s) could not be graded" in text
    assert found.as_dict()["score"] == 0.5


def test_an_empty_run_has_no_score():
    found = summarise([trajectory("c", None, "infra_error")])
    assert found.estimate is None
    assert found.as_dict()["score"] is None
    assert "–" in to_text(summary_table([found]))


def test_pass_at_k_stands_in_the_table_when_every_task_has_k_attempts():
    many = [trajectory("a", r, attempt=i) for i, r in enumerate((1.0, 0.0, 0.0, 0.0))]
    text = to_text(summary_table([summarise(many)]), width=140)
    assert "pass@2" in text
    assert "0.500" in text
    assert "pass@4" in text
    uneven = [*many, trajectory("b", 1.0)]
    assert summarise(uneven).best_of == {}


def test_html_escapes_what_others_wrote():
    page = summary_html([summarise([trajectory("a", 1.0, agent="<script>alert(1)</script>")])])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_comparison_table_shows_interval_and_tests():
    a = rewards_by_task([trajectory("a", 0.0), trajectory("b", 1.0), trajectory("x", 1.0)])
    b = rewards_by_task([trajectory("a", 1.0), trajectory("b", 1.0)])
    text = to_text(comparison_table("runs/a", "runs/b", compare(a, b)))
    assert "+0.500" in text
    assert "1 / 1 / 0" in text
    assert "only in A" in text
