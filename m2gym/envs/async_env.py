"""The asynchronous environment: Gymnasium's five-tuple over episodes. The sync class runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from m2gym.core.errors import EpisodeOverError, InputError, UnknownIdError
from m2gym.core.protocols import Action, Observation
from m2gym.core.task import Split, Taskset
from m2gym.core.tools import ToolSchema
from m2gym.core.verdict import Verdict
from m2gym.envs.episode import ToolFactory, WorkspaceEpisode, open_episode
from m2gym.envs.tools import workspace_tools
from m2gym.rewards.shaping import Shaping

StepResult = tuple[str, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, info."""


class AsyncEnv:
    """Tasks of one split, one episode at a time.

    Args:
        id: the environment's id, as recorded in trajectories.
        taskset: where tasks come from.
        split: which of its splits.
        workspace: kind of box, ``"auto"`` for the best this machine has.
        tools: the tools offered in an episode.
        shaping: potential-based shaping of the intermediate rewards.
    """

    def __init__(
        self,
        id: str,
        taskset: Taskset,
        *,
        split: Split = "test",
        workspace: str = "auto",
        tools: ToolFactory = workspace_tools,
        shaping: Callable[[], Shaping] | None = None,
    ) -> None:
        self.id, self.taskset, self.split, self.workspace = id, taskset, split, workspace
        self.task_ids = tuple(taskset.ids(split))
        if not self.task_ids:
            raise InputError(f"environment {id!r} has no task in its {split!r} split")
        self.episode: WorkspaceEpisode | None = None
        self._tools, self._shaping = tools, shaping
        self._shaper: Shaping | None = None
        self._random = np.random.default_rng()
        self._seed: int | None = None

    @property
    def tools(self) -> list[ToolSchema]:
        """Tools of the running episode; before the first `reset` there is none to ask."""
        return self._running().tools

    async def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode on ``options["task"]``, or on a task drawn by the seed."""
        if seed is not None:
            self._random, self._seed = np.random.default_rng(seed), seed
        task = self.taskset.task(self._choose(options or {}))
        await self.close()
        self.episode = await open_episode(
            self.id,
            self.taskset,
            task,
            workspace=self.workspace,
            seed=self._seed,
            tools=self._tools,
        )
        if self._shaping is not None:
            self._shaper = self._shaping()
            await self._shaper.begin(self.episode.workspace)
        return self.episode.first_observation, {"task": task.id, "valid": True}

    async def step(self, action: Action) -> StepResult:
        """Do an action. The reward is 0 until the episode ends, unless shaping adds to it."""
        episode = self._running()
        return await self._result(episode, await episode.act(action))

    async def submit(self) -> StepResult:
        """End the episode and grade it: terminated, ``info["verdict"]`` set."""
        episode = self._running()
        verdict = await episode.submit()
        done = Observation("submitted", verdict.reward or 0.0, True, verdict.stop)
        return await self._result(episode, done)

    async def fork(self, n: int) -> list[AsyncEnv]:
        """``n`` environments that go on from this episode."""
        children = []
        for episode in await self._running().fork(n):
            child = AsyncEnv(
                self.id,
                self.taskset,
                split=self.split,
                workspace=self.workspace,
                tools=self._tools,
                shaping=self._shaping,
            )
            child.episode = episode
            if self._shaper is not None:
                child._shaper = self._shaper.copy()
            children.append(child)
        return children

    async def close(self) -> None:
        """Stop the running episode's box; idempotent."""
        if self.episode is not None:
            await self.episode.close()
            self.episode = None

    def _running(self) -> WorkspaceEpisode:
        if self.episode is None:
            raise EpisodeOverError("no episode is running: call reset first")
        return self.episode

    def _choose(self, options: dict[str, Any]) -> str:
        unknown = set(options) - {"task"}
        if unknown:
            raise InputError(f"reset knows the option 'task', got {sorted(unknown)}")
        if "task" not in options:
            return self.task_ids[int(self._random.integers(len(self.task_ids)))]
        wanted = options["task"]
        if wanted not in self.task_ids:
            raise UnknownIdError(f"task of {self.id} ({self.split})", str(wanted), self.task_ids)
        return str(wanted)

    async def _result(self, episode: WorkspaceEpisode, seen: Observation) -> StepResult:
        reward = seen.reward
        if self._shaper is not None:
            reward += await self._shaper.step(episode.workspace, done=seen.done)
        info: dict[str, Any] = {"task": episode.task.id, "valid": True, **seen.info}
        verdict: Verdict | None = episode.verdict
        if verdict is not None:
            info["verdict"] = verdict
        terminated = seen.done and seen.stop == "submitted"
        return seen.text, reward, terminated, seen.done and not terminated, info
