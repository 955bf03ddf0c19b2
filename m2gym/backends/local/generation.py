"""Episodes for a run: groups of the items that the schedule admits, and held-out evaluations."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.rollouts import Rollouts
from m2gym.backends.local.schedule import Plan, TaskOrder
from m2gym.backends.stages import Stages
from m2gym.core.errors import InfraError, InputError
from m2gym.core.protocols import Sampling
from m2gym.forge.pool import DataPool
from m2gym.forge.records import PoolTrajectory
from m2gym.forge.window import Batch

EMPTY_ROUNDS = 3
"""Rounds of generation without one usable episode after which the run stops; ours."""


class Generation:
    """Fills the pool with what the plan admits, as the current stage has it.

    Args:
        rollouts: where episodes come from; one with ``at_stage(n)`` hears of each stage.
        engine: that answers. plan: of items. stages: of the run.
    """

    def __init__(self, rollouts: Rollouts, engine: LocalEngine, plan: Plan, stages: Stages) -> None:
        self.rollouts, self.engine, self.plan, self.stages = rollouts, engine, plan, stages
        self.settings = stages.config.train
        self.order = TaskOrder(rollouts.tasks, self.settings.seed)
        self.in_pool: dict[str, bool] = {}
        self.error = ""

    async def next_batch(self, pool: DataPool) -> Batch[int]:
        """Generate all that is admitted, until an update's groups are there.

        Raises:
            InfraError: nothing can be graded.
        """
        self._stage(self.stages.index)
        empty = 0
        while True:
            items = self.plan.admit()
            usable = 0
            limit = asyncio.Semaphore(self.settings.concurrency)
            groups = [asyncio.create_task(self._group(item, limit)) for item in items]
            try:
                for item, group in zip(items, groups, strict=True):
                    episodes = await group
                    name = str(item)
                    if episodes is not None:
                        pool.put(episodes)
                        told = [e.extra["error"] for e in episodes if "error" in e.extra]
                        self.error = told[-1] if told else self.error
                        self.in_pool[name] = any(self.fault(e) is None for e in episodes)
                    usable += self.in_pool[name]
                    self.plan.generated(item, self.in_pool[name])
            finally:
                for group in groups:
                    group.cancel()
                await asyncio.gather(*groups, return_exceptions=True)
            batch = self.plan.poll()
            if batch is not None:
                return batch
            empty = 0 if usable else empty + 1
            if empty == EMPTY_ROUNDS:
                said = f"; the last error: {self.error}" if self.error else ""
                raise InfraError(
                    f"no episode of {EMPTY_ROUNDS} rounds could be graded: {pool.faults()}{said}"
                )

    async def evaluate(self, step: int) -> float:
        """Mean reward of held-out tasks, one episode each, as the last stage has it: its agent and
        its temperature.

        Episodes that could not be graded do not count; NaN where none could.
        """
        tasks = list(self.rollouts.held_out)[: self.settings.eval_tasks]
        if not tasks:
            raise InputError("train.eval_every is set, but there are no held-out tasks")
        last = len(self.stages.parts) - 1
        self._stage(last)
        episodes = await asyncio.gather(
            *(
                self.rollouts.episode(
                    self.engine, task, f"eval-{step}/{n}", self._sampling(n, last)
                )
                for n, task in enumerate(tasks)
            )
        )
        rewards = [e.reward for e in episodes if self.fault(e) is None and e.reward is not None]
        return sum(rewards) / len(rewards) if rewards else math.nan

    def fault(self, episode: PoolTrajectory) -> str | None:
        """Why an episode cannot be trained on."""
        return episode.fault(self.engine.model.vocabulary, self.engine.context)

    async def _group(self, item: int, limit: asyncio.Semaphore) -> list[PoolTrajectory] | None:
        """Episodes of an item; ``None`` where the pool has them already."""
        name = str(item)
        if name in self.in_pool:
            return None
        stage = self.stages.index

        async def one(member: int) -> PoolTrajectory:
            async with limit:
                episode = await self.rollouts.episode(
                    self.engine,
                    self.order.task(item),
                    f"{name}/{member}",
                    self._sampling(self.order.seed_of(item, member), stage),
                )
            return replace(episode, group=name)

        return list(await asyncio.gather(*(one(m) for m in range(self.settings.group_size))))

    def _sampling(self, seed: int, stage: int) -> Sampling:
        s = self.stages.settings_of(stage)
        return Sampling(temperature=s.temperature, max_tokens=s.max_tokens, seed=seed)

    def _stage(self, index: int) -> None:
        rollouts: Any = self.rollouts
        if hasattr(rollouts, "at_stage"):
            rollouts.at_stage(index)
