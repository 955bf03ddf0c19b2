"""Limits by phase, waiting counted apart, retries by cause within a budget, order."""

import asyncio
import json
import time
from pathlib import Path

import pytest

import m2gym
from m2gym.core.errors import DownloadError, InfraError, ModelError, WorkspaceLostError
from m2gym.core.protocols import ModelRequest
from m2gym.models.scripted import ScriptedModel, Turn
from m2gym.rollout.control import ask, status
from m2gym.rollout.gates import AtOnce
from m2gym.rollout.limits import EpisodeLimits, Retries, cause_word, parse_limits

pytestmark = pytest.mark.usefixtures("tiny")


class Agent:
    uses_model = None

    def __init__(self, run, name="function"):
        self._run, self.name = run, name

    async def run(self, episode):
        await self._run(episode)


def run(agent, **more):
    return m2gym.evaluate("tiny", agent=Agent(agent), progress=False, **more)


async def until(condition):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("waited for a minute")


async def right(episode):
    await episode.act(f"echo {episode.task.id[1:]} > answer.txt")


def test_limits_replace_the_tasks_own_and_the_hash_stays():
    seen = []

    async def agent(episode):
        seen.append((episode.task.limits, episode.deadline - time.time()))
        shown = await episode.act("echo $M2GYM_DEADLINE")
        seen.append(int(shown.text) - episode.deadline)
        while not episode.done:
            await right(episode)

    limits = EpisodeLimits(agent=50, wall=40, grade=33, steps=3)
    result = run(agent, limit=1, limits=limits)
    [episode] = result
    assert (seen[0][0].seconds, seen[0][0].grade_seconds, seen[0][0].steps) == (40, 33, 3)
    assert 0 < seen[0][1] <= 40
    assert -1 <= seen[1] <= 0
    assert (episode.verdict.stop, episode.verdict.reward) == ("steps", 1)
    assert episode.task_hash == result.info.task_hashes["t0"]
    assert result.config.limits == {"agent": 50, "wall": 40, "grade": 33, "steps": 3}


def test_working_time_leaves_waiting_out():
    async def agent(episode):
        await right(episode)
        for _ in range(3):
            await episode.session.complete(ModelRequest([{"role": "user", "content": "x"}]))
        if episode.task.id == "t1":
            await asyncio.sleep(60)

    model = ScriptedModel(lambda request: Turn(text="hm", delay=0.25))
    result = run(
        agent,
        model=model,
        tasks=["t0", "t1", "t2"],
        concurrency=3,
        at_once=AtOnce(model_calls=1),
        limits=EpisodeLimits(working=4),
    )
    episodes = {e.task: e for e in result}
    assert all(e.verdict.reward == 1 for e in result)
    assert episodes["t1"].verdict.stop == "deadline"
    assert episodes["t0"].verdict.stop == "exited"
    # nine calls of a quarter of a second, one at a time: the last one in waited for most of them
    assert max(e.waited["model"] for e in result) >= 0.5
    assert all(e.waited["model"] <= e.seconds["agent"] for e in result)


@pytest.mark.parametrize("answered", [0, 1])
def test_a_model_silent_until_the_deadline_is_infrastructure(answered):
    async def agent(episode):
        await right(episode)
        for _ in range(2):
            await episode.session.complete(ModelRequest([{"role": "user", "content": "x"}]))

    def answer(request):
        said.append(1)
        return Turn(text="hm", delay=0 if len(said) <= answered else 60)

    said = []
    [episode] = run(
        agent,
        model=ScriptedModel(answer),
        limit=1,
        limits=EpisodeLimits(agent=1),
        retries=Retries(budget=0),
    )
    if answered:
        assert (episode.verdict.stop, episode.verdict.reward) == ("deadline", 1)
    else:
        assert (episode.verdict.status, episode.verdict.reward) == ("infra_error", None)
        assert (episode.verdict.stop, episode.cause) == ("deadline", "model_timeout")
        assert "answered none" in episode.error


def test_a_box_that_does_not_open_in_time_is_infrastructure():
    [episode] = run(right, limit=1, limits=EpisodeLimits(start=1e-4), retries=Retries(budget=0))
    assert (episode.verdict.status, episode.cause) == ("infra_error", "start")
    assert "limit `start`" in episode.error


def test_boxes_and_graders_at_once(monkeypatch):
    monkeypatch.setenv("TINY_GRADING", "0.3")
    under_way, most = set(), []
    pairs = asyncio.Barrier(2)  # two end together, however slow their boxes: one waits to be graded

    async def agent(episode):
        under_way.add(episode.id)
        most.append(len(under_way))
        await right(episode)
        await pairs.wait()
        under_way.discard(episode.id)

    begun = time.monotonic()
    result = run(agent, concurrency=4, at_once=AtOnce(boxes=2, graders=1, creations=100))
    assert max(most) <= 2
    assert time.monotonic() - begun >= 4 * 0.3
    assert any("box" in e.waited for e in result)
    assert any("grader" in e.waited for e in result)
    assert result.score == 1


def test_lost_episodes_are_tried_again_within_the_budget():
    tries = []

    async def agent(episode):
        tries.append(episode.task.id)
        if tries.count(episode.task.id) <= 2:
            raise WorkspaceLostError("gone")
        await right(episode)

    result = run(agent, tasks=["t1"], retries=Retries(base=0.01))
    [episode] = result
    assert (episode.verdict.reward, episode.cause) == (1, None)
    assert [lost["cause"] for lost in episode.retries] == ["box", "box"]
    assert "gone" in episode.retries[0]["error"]
    tries.clear()
    few = run(agent, retries=Retries(base=0.01, budget=3), concurrency=1)
    assert few.summary.statuses["infra_error"] >= 2
    assert len(tries) == 4 + 3


def test_retries_by_cause():
    retries = Retries(tries={"box": 1, "model": 1}, other=0, base=0.01)

    def lost(error):
        verdict = m2gym.Verdict(reward=None, status="infra_error")
        from m2gym.core.trajectory import Trajectory

        return Trajectory(
            id="x", env="e", task="t", task_hash="h", agent="a", verdict=verdict,
            cause=cause_word(error),
        )  # fmt: skip

    box = lost(WorkspaceLostError("x"))
    assert retries.wait(box, []) is not None
    assert retries.wait(box, ["box"]) is None
    assert retries.wait(lost(ModelError("x", cause="server")), ["box"]) is not None
    assert retries.wait(lost(ModelError("x", cause="server")), ["model_timeout"]) is None
    assert retries.wait(lost(ModelError("x", cause="auth")), []) is None
    assert retries.wait(lost(DownloadError("x")), []) is None
    assert cause_word(OSError("x")) == "system"
    assert cause_word(InfraError("x")) == "infra"
    assert Retries().of_run(10) == 8
    assert Retries().of_run(1000) == 100


def test_the_order_is_seeded_and_fair():
    def order(seed):
        seen = []

        async def agent(episode):
            seen.append(episode.task.id)
            await right(episode)

        run(agent, attempts=2, seed=seed, concurrency=1)
        return seen

    first = order(1)
    assert order(1) == first
    assert sorted(first[:4]) == sorted(first[4:]) == ["t0", "t1", "t2", "t3"]
    assert any(order(seed) != first for seed in (2, 3))


def test_limits_in_text():
    assert parse_limits({"agent": "60", "steps": "4"}) == EpisodeLimits(agent=60, steps=4)
    for bad in ({"agents": "1"}, {"agent": "soon"}, {"grade": "0"}):
        with pytest.raises(m2gym.core.errors.InputError):
            parse_limits(bad)


async def test_limits_change_while_it_runs():
    release, most = asyncio.Event(), [0, 0]
    under_way = 0

    async def agent(episode):
        nonlocal under_way
        under_way += 1
        most[release.is_set()] = max(most[release.is_set()], under_way)
        await right(episode)
        await release.wait()
        await asyncio.sleep(0.3)
        under_way -= 1

    going = asyncio.create_task(
        m2gym.evaluate_async(
            "tiny", agent=Agent(agent), attempts=3, concurrency=1, out="r", progress=False
        )
    )
    path = Path("r")
    await until(lambda: (path / "status.json").exists())
    await until(lambda: status(path)["gates"]["boxes"]["held"] == 1)
    with pytest.raises(m2gym.core.errors.InputError, match="no limit 'boxs'"):
        await asyncio.to_thread(ask, path, {"boxs": "3"})
    told = await asyncio.to_thread(ask, path, {"episodes": "3"})
    assert told["at_once"]["episodes"] == 3
    await until(lambda: under_way == 3)
    release.set()
    result = await going
    assert most == [3, 3]
    assert result.score == 1
    told = status(path)
    assert (told["running"], told["done"], told["total"]) == (False, 12, 12)
    with pytest.raises(m2gym.core.errors.InputError, match="no driver is running"):
        ask(path, {"episodes": "3"})
    assert json.loads((path / "control.json").read_text())["episodes"] == 3
