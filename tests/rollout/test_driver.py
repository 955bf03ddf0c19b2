"""Every error is attributed once: to the agent, to infrastructure, or to the verifier."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

import m2gym
from m2gym.core.errors import InputError, WorkspaceLostError
from m2gym.rollout.driver import cause

pytestmark = pytest.mark.usefixtures("tiny")


class Agent:
    """An agent from a function."""

    name = "function"

    def __init__(self, run):
        self._run = run

    async def run(self, episode):
        await self._run(episode)


def attempt(run):
    [episode] = m2gym.evaluate("tiny", agent=Agent(run), limit=1, progress=False)
    return episode


def marked(mark):
    """Processes that have ``mark`` among their words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("waited for 20 seconds")


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def first_of_box(pid):
    """The box's process 1, which ``pid`` descends from: two below this process."""
    while parent(parent(pid)) != os.getpid():
        pid = parent(pid)
    return pid


def test_a_killed_box_is_nobodys_score():
    async def run(episode):
        await episode.act("echo 0 > answer.txt; sleep 4711.25 &")
        await wait_for(lambda: marked(b"4711.25"))
        os.kill(first_of_box(marked(b"4711.25")[0]), signal.SIGKILL)
        await wait_for(lambda: not marked(b"4711.25"))
        await episode.act("true")

    episode = attempt(run)
    assert episode.verdict.status == "infra_error", episode.error
    assert episode.verdict.reward is None
    assert "WorkspaceLostError" in episode.error
    assert episode.steps[0].action.startswith("echo 0")


def test_infrastructure_is_seen_inside_groups_and_causes():
    async def grouped(episode):
        async def lose():
            raise WorkspaceLostError("the box is gone")

        async with asyncio.TaskGroup() as group:
            group.create_task(lose())

    async def wrapped(episode):
        try:
            raise WorkspaceLostError("the box is gone")
        except WorkspaceLostError as error:
            raise RuntimeError("step 3 failed") from error

    for run in (grouped, wrapped):
        episode = attempt(run)
        assert episode.verdict.status == "infra_error"
        assert episode.error == "WorkspaceLostError: the box is gone"


def test_an_agents_own_timeout_is_not_the_deadline():
    async def run(episode):
        async with asyncio.timeout(0.05):
            await asyncio.sleep(5)

    episode = attempt(run)
    assert episode.verdict.status == "agent_error"
    assert episode.verdict.stop == "exited"
    assert episode.error.startswith("TimeoutError")


def test_an_agent_that_just_ends_is_graded():
    async def run(episode):
        await episode.act("echo 0 > answer.txt")

    episode = attempt(run)
    assert (episode.verdict.reward, episode.verdict.stop) == (1, "exited")


def test_a_malformed_action_leaves_the_episode_usable():
    async def run(episode):
        with pytest.raises(InputError, match="action"):
            await episode.act(42)
        await episode.act("echo 0 > answer.txt")

    assert attempt(run).verdict.reward == 1


def test_work_after_submitting_changes_nothing():
    async def run(episode):
        first = await episode.submit()
        await episode.workspace.write("answer.txt", b"0")
        assert await episode.submit() == first

    episode = attempt(run)
    assert episode.verdict.reward == 0
    assert episode.verdict.status == "ok"


def test_the_step_limit_ends_and_grades():
    async def run(episode):
        while not episode.done:
            await episode.act("echo 0 > answer.txt")

    episode = attempt(run)
    assert (episode.verdict.stop, len(episode.steps)) == ("steps", 10)
    assert episode.verdict.reward == 1


def test_a_missing_capability_is_the_callers_mistake():
    with pytest.raises(InputError, match="unknown workspace"):
        m2gym.evaluate("tiny", agent="noop", workspace="locale", limit=1, progress=False)


def test_a_cause_names_what_it_came_from():
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise WorkspaceLostError("cannot write") from error
    except WorkspaceLostError as error:
        text = cause(error)
    assert text.startswith("WorkspaceLostError: cannot write (from OSError: ")
    assert "No space left" in text
