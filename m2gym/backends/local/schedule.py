"""Which task is attempted when, and which finished groups are trained on: a plan that repeats.

Item i (a group) is the i-th task of an endless shuffled order. Generation runs ahead of training by
``lag`` updates: N = (lag + 1)·B items are present, and all that are admitted are generated before
the next update, so that a run has one order of events whatever the machine's speed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2gym.backends.train_config import ScheduleConfig
from m2gym.core.errors import InputError
from m2gym.forge.window import Batch, WindowedFifo


class TaskOrder:
    """Task of every item: each epoch is a shuffle of all tasks that follows from the seed.

    >>> order = TaskOrder(["a", "b"], seed=0)
    >>> sorted([order.task(4), order.task(5)])
    ['a', 'b']
    """

    def __init__(self, tasks: Sequence[str], seed: int) -> None:
        if not tasks:
            raise InputError("expected at least one task to train on, got none")
        self.tasks, self.seed = tuple(tasks), seed

    def task(self, item: int) -> str:
        """The item's task."""
        epoch, at = divmod(item, len(self.tasks))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.tasks))
        return self.tasks[int(order[at])]

    def seed_of(self, item: int, member: int) -> int:
        """Seed of one episode's sampling."""
        return int(np.random.default_rng([self.seed, 1, item, member]).integers(2**31))


class Plan:
    """The windowed FIFO over items that are generated as soon as they are admitted."""

    def __init__(self, config: ScheduleConfig, groups: int) -> None:
        self.fifo: WindowedFifo[int] = WindowedFifo(
            (config.lag + 1) * groups, config.window, groups, max_lag=None
        )
        self.dropped: list[int] = []

    def admit(self) -> list[int]:
        """Items to generate now."""
        items = [self.fifo.admit() for _ in range(self.fifo.room)]
        for item in items:
            self.fifo.start(item)
        return items

    def generated(self, item: int, usable: bool) -> None:
        """The item is there; one without a usable episode is passed over."""
        if usable:
            self.fifo.finish(item, item)
        else:
            self.dropped.append(item)
            self.fifo.fail(item)

    def poll(self) -> Batch[int] | None:
        """The next update's items."""
        return self.fifo.poll()

    def release(self, batch: Batch[int]) -> None:
        """The update is done."""
        self.fifo.release(batch.number)

    def replay(self, updates: int, dropped: Sequence[int]) -> None:
        """Bring a new plan to where one was after ``updates``, with what it had dropped."""
        gone = set(dropped)
        for _ in range(updates):
            batch = None
            while batch is None:
                for item in self.admit():
                    self.generated(item, item not in gone)
                batch = self.poll()
            self.release(batch)
