"""Attempts under way, as many as the gates let in; those that infrastructure failed again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from m2gym.core.trajectory import Trajectory
from m2gym.rollout.driver import Attempt, run_episode
from m2gym.rollout.gates import Gates
from m2gym.rollout.limits import Retries


class Executor(Protocol):
    """Where episodes run: this process, or a cluster."""

    async def run(self, attempt: Attempt) -> Trajectory:
        """One episode; its record has a cause where it could not be graded."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class LocalExecutor:
    """Episodes in this process's event loop."""

    async def run(self, attempt: Attempt) -> Trajectory:
        return await run_episode(attempt)

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Pool:
    """Runs ``todo`` through ``executor``; memory stays flat however many there are.

    ``record`` is awaited with each finished episode, then ``told`` is called. Its place is free
    before: the next episode does not wait for the disk, and all that wait share one sync.
    """

    todo: Iterator[Attempt]
    gates: Gates
    executor: Executor
    record: Callable[[Trajectory], Awaitable[None]]
    told: Callable[[Trajectory], None]
    retries: Retries
    budget: int
    """Retries left in this run."""
    used: dict[str, int] = field(default_factory=dict)
    """Retries by cause."""

    async def work(self) -> None:
        """Run everything; the first error that is no episode's own stops the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                for attempt in self.todo:
                    await self.gates.episodes.acquire()
                    group.create_task(self._one(attempt))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def _one(self, attempt: Attempt) -> None:
        try:
            trajectory = await self._until_it_counts(attempt)
        finally:
            self.gates.episodes.release()
        await self.record(trajectory)
        self.told(trajectory)

    async def _until_it_counts(self, attempt: Attempt) -> Trajectory:
        lost: list[dict[str, Any]] = []
        while True:
            record = await self.executor.run(attempt)
            wait = self.retries.wait(record, [one["cause"] for one in lost])
            if wait is None or self.budget <= 0:
                return record.model_copy(update={"retries": tuple(lost)}) if lost else record
            self.budget -= 1
            cause = record.cause or "infra"
            self.used[cause] = self.used.get(cause, 0) + 1
            lost.append(
                {
                    "cause": cause,
                    "error": record.error,
                    "seconds": record.seconds,
                    "usage": record.usage.model_dump(),
                }
            )
            await asyncio.sleep(wait)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
