import asyncio
import warnings

import pytest

import m2gym
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.rollout.evaluation import episode_seed
from m2gym.scaffolds.random_commands import RandomCommands
from m2gym.scaffolds.scripted import Scripted

pytestmark = pytest.mark.usefixtures("tiny")


def run(agent, **more):
    return m2gym.evaluate("tiny", agent=agent, progress=False, **more)


def test_gold_scores_one_and_noop_none():
    gold, noop = run("gold"), run("noop")
    assert (gold.score, noop.score) == (1, 0)
    assert gold.complete
    assert gold.path.parent.name == "runs"
    found = gold.compare(noop)
    assert (found.difference, found.worse) == (-1, 4)
    for episode in gold:
        assert set(episode.seconds) == {"start", "agent", "grade"}
        assert episode.verdict.stop == "submitted"
        assert episode.task_hash == gold.info.task_hashes[episode.task]


def test_a_script_by_task_and_for_the_rest():
    agent = Scripted({"t1": ["echo 1 > answer.txt"], "*": ["true"]})
    episodes = {e.task: e for e in run(agent)}
    assert [episodes[f"t{i}"].verdict.reward for i in range(4)] == [0, 1, 0, 0]
    assert episodes["t1"].steps[0].action == "echo 1 > answer.txt"


def test_random_is_the_same_for_the_same_seed():
    def actions(seed):
        agent = RandomCommands(steps=3, seed=seed)
        return {e.task: [s.action for s in e.steps] for e in run(agent, limit=2)}

    assert actions(1) == actions(1)
    assert actions(1) != actions(2)
    assert len(actions(1)["t0"]) == 3


def test_an_agent_that_raises_is_graded_with_its_cause():
    result = run("tiny_env:Raises", limit=1)
    [episode] = result
    assert episode.verdict.status == "agent_error"
    assert episode.verdict.reward == 1
    assert episode.error == "LookupError: lost my way"


def test_an_agent_past_its_deadline_is_graded(monkeypatch):
    monkeypatch.setenv("TINY_SECONDS", "1.5")
    [episode] = run("tiny_env:Forever", limit=1)
    assert episode.verdict.stop == "deadline"
    assert episode.verdict.reward == 1
    assert episode.verdict.status == "ok"


def test_the_deadline_does_not_cut_off_grading_begun_in_time(monkeypatch):
    monkeypatch.setenv("TINY_SECONDS", "1.5")
    monkeypatch.setenv("TINY_GRADING", "2")
    [episode] = run("gold", limit=1)
    assert episode.verdict.stop == "submitted"
    assert episode.verdict.reward == 1
    assert episode.seconds["grade"] > 2 > episode.seconds["agent"]


def test_infrastructure_never_scores(monkeypatch):
    monkeypatch.setenv("TINY_DOWN", "t1,t2")
    result = run("gold", out="r")
    lost = [e for e in result if e.verdict.status == "infra_error"]
    assert sorted(e.task for e in lost) == ["t1", "t2"]
    assert lost[0].error.endswith("the mirror is down")
    assert all(e.verdict.reward is None for e in lost)
    assert result.score == 1
    assert "2 infra_error" in str(result)
    assert not result.complete

    monkeypatch.setenv("TINY_DOWN", "")
    again = run("gold", out="r", resume=True)
    assert again.complete
    assert sorted(e.task for e in again.trajectories) == ["t0", "t1", "t2", "t3"]
    assert {e.task for e in again.trajectories[:2]} == {"t0", "t3"}


def test_a_broken_verifier_never_scores(monkeypatch):
    monkeypatch.setenv("TINY_VERIFIER", "broken")
    [episode] = run("noop", limit=1)
    assert episode.verdict.status == "verifier_error"
    assert episode.verdict.reward is None
    assert "the ruler broke" in episode.error


def test_attempts_and_their_seeds():
    result = run("noop", attempts=3, limit=2, seed=7, concurrency=2)
    assert sorted((e.task, e.attempt) for e in result) == [
        (f"t{i}", k) for i in range(2) for k in range(3)
    ]
    assert {e.seed for e in result} == {
        episode_seed(7, f"t{i}", k) for i in range(2) for k in range(3)
    }


def test_bad_input_is_said_before_anything_starts():
    with pytest.raises(UnknownIdError, match="'tiny'"):
        m2gym.evaluate("tinny", agent="gold")
    with pytest.raises(UnknownIdError, match="'gold'"):
        run("golt")
    with pytest.raises(UnknownIdError, match="t3"):
        run("gold", tasks=["t33"])
    with pytest.raises(InputError, match="named twice"):
        run("gold", tasks=["t1", "t1"])
    with pytest.raises(InputError, match="attempts must be at least 1"):
        run("gold", attempts=0)
    with pytest.raises(InputError, match="calls no model"):
        run("gold", model="openai/x")
    with pytest.raises(InputError, match="resume needs"):
        run("gold", resume=True)


def test_resume_refuses_another_configuration(monkeypatch):
    run("noop", limit=2, out="r")
    with pytest.raises(InputError, match="already holds a run"):
        run("noop", limit=2, out="r")
    with pytest.raises(InputError, match="agent: 'noop' → 'gold'"):
        run("gold", limit=2, out="r", resume=True)
    monkeypatch.setenv("TINY_SHIFT", "5")
    with pytest.raises(InputError, match="content of tasks: t0, t1"):
        run("noop", limit=2, out="r", resume=True)


async def test_in_a_running_loop_and_its_async_twin():
    assert run("gold", limit=1).score == 1
    result = await m2gym.evaluate_async("tiny", agent="gold", limit=1, progress=False)
    assert result.score == 1


async def test_cancelling_stops_the_boxes_and_keeps_what_is_done():
    going = asyncio.create_task(
        m2gym.evaluate_async(
            "tiny", agent="tiny_env:Forever", out="r", concurrency=2, progress=False
        )
    )
    await asyncio.sleep(1.5)
    going.cancel()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(asyncio.CancelledError):
            await going
    assert m2gym.load_run("r").summary.episodes == 0


def test_gold_of_a_task_without_a_reference_is_not_a_score(tmp_path):
    m2gym.reward("never-asked")(lambda artifacts: 0.0)
    m2gym.register(
        "unanswered",
        tasks=[m2gym.Task(id="u", instruction="Guess.", files={"a": "x"})],
        rewards=["never-asked"],
    )
    done = m2gym.evaluate("unanswered", agent="gold", out=tmp_path / "run", progress=False)
    assert done.score is None
    [episode] = done
    assert episode.verdict.status == "verifier_error"
    assert "no reference change" in episode.error
