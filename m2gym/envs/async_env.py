"""The asynchronous environment: Gymnasium's five-tuple over episodes. The sync class runs it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from m2gym.core.errors import EpisodeOverError, InputError, UnknownIdError
from m2gym.core.protocols import Action, Observation
from m2gym.core.task import Split, Taskset, no_task_in
from m2gym.core.tools import ToolSchema
from m2gym.core.verdict import Verdict
from m2gym.core.workspace import Workspace
from m2gym.envs.episode import ToolFactory, WorkspaceEpisode, open_episode
from m2gym.envs.tools import workspace_tools
from m2gym.rewards.shaping import PotentialShaping

StepResult = tuple[str, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, info."""

Potential = Callable[[Workspace], float | Awaitable[float]]
"""Φ of potential-based shaping: looks at the agent's box, never at hidden tests."""


class AsyncEnv:
    """Tasks of one split, one episode at a time.

    Args:
        id: the environment's id, as recorded in trajectories.
        taskset: where tasks come from.
        split: which of its splits.
        workspace: kind of box, ``"auto"`` for the best this machine has.
        tools: the tools offered in an episode.
        shaping: a potential Φ; every reward then gains γΦ(s') − Φ(s), with Φ = 0 at the end.
        gamma: the learner's discount γ, used by the shaping.
    """

    def __init__(
        self,
        id: str,
        taskset: Taskset,
        *,
        split: Split = "test",
        workspace: str = "auto",
        tools: ToolFactory = workspace_tools,
        shaping: Potential | None = None,
        gamma: float = 1.0,
    ) -> None:
        self.id, self.taskset, self.split, self.workspace = id, taskset, split, workspace
        self.task_ids = tuple(taskset.ids(split))
        if not self.task_ids:
            raise InputError(no_task_in(f"environment {id!r}", taskset, split))
        self.episode: WorkspaceEpisode | None = None
        self._tools, self._potential, self._gamma = tools, shaping, gamma
        self._shaping: PotentialShaping[float] | None = None
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
        if self._potential is not None:
            self._shaping = PotentialShaping(float, self._gamma)
            self._shaping.reset(await self._value(self.episode))
        return self.episode.first_observation, {"task": task.id, "valid": True}

    async def step(self, action: Action) -> StepResult:
        """Do an action. The reward is 0 until the episode ends, unless shaping adds to it."""
        episode = self._running()
        return await self._result(episode, await episode.act(action))

    async def submit(self) -> StepResult:
        """End the episode and grade it: terminated, ``info["verdict"]`` set.

        Of a task in stages it ends the stage: the next one's instruction is observed.
        """
        episode = self._running()
        verdict = await episode.submit()
        if not episode.done:
            return await self._result(episode, Observation(episode.first_observation))
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
                shaping=self._potential,
                gamma=self._gamma,
            )
            child.episode = episode
            child._shaping = copy.copy(self._shaping)
            children.append(child)
        return children

    async def close(self) -> None:
        """Stop the running episode's box; idempotent."""
        if self.episode is not None:
            await self.episode.close()
            self.episode = None

    async def _value(self, episode: WorkspaceEpisode) -> float:
        assert self._potential is not None
        value = self._potential(episode.workspace)
        return float(await value if inspect.isawaitable(value) else value)

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
        wanted = str(options["task"])
        if wanted not in self.task_ids:
            other: Split = "train" if self.split == "test" else "test"
            if wanted in self.taskset.ids(other):
                raise InputError(
                    f"task {wanted!r} of {self.id} exists, in the split {other!r}, and this "
                    f"environment shows {self.split!r}: m2gym.make({self.id!r}, split={other!r})"
                )
            raise UnknownIdError(f"task of {self.id} ({self.split})", wanted, self.task_ids)
        return wanted

    async def _result(self, episode: WorkspaceEpisode, seen: Observation) -> StepResult:
        reward = seen.reward
        if self._shaping is not None:
            value = 0.0 if seen.done else await self._value(episode)
            reward += self._shaping.step(value, terminal=seen.done)
        info: dict[str, Any] = {"task": episode.task.id, "valid": True, **seen.info}
        verdict: Verdict | None = episode.verdict
        if verdict is not None:
            info["verdict"] = verdict
        terminated = seen.done and seen.stop == "submitted"
        return seen.text, reward, terminated, seen.done and not terminated, info
