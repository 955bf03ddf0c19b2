"""Forge's window over verl's own buffer: which finished groups the trainer may take.

verl keeps the trajectories and says which groups are done; `m2gym.forge.window` says which of them
are taken, in the order of dispatch. A group without one usable episode is passed over and a new
item is asked for.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from m2gym.backends.verl.api import ReplayBuffer, tq
from m2gym.core.errors import InfraError
from m2gym.forge.window import State, WindowedFifo

POLL = 0.1
"""Seconds between two looks into verl's buffer; the project's choice."""

EMPTY_ROUNDS = 3
"""Batches' worth of groups in a row without one usable episode, after which the run ends; ours."""


class WindowedBuffer(ReplayBuffer):
    """verl's ``custom_sampler``; ``sampler_kwargs`` has ``capacity``, ``window`` and ``batch``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(poll_interval=POLL, **kwargs)
        own = self.sampler_kwargs
        self.fifo: WindowedFifo[str] = WindowedFifo(
            int(own.capacity), own.window, int(own.batch), max_lag=None
        )
        self.items: dict[str, int] = {}
        self.taken: int | None = None
        self.dropped = 0
        self.faults: Counter[str] = Counter()
        """Why episodes of dropped groups could not be trained on."""
        self._empty = 0

    def admit(self, uid: str) -> None:
        """A group is dispatched."""
        item = self.fifo.admit(time.monotonic())
        self.fifo.start(item, time.monotonic())
        self.items[uid] = item

    def release(self) -> None:
        """The batch taken last is trained on."""
        if self.taken is not None:
            self.fifo.release(self.taken, time.monotonic())
            self.taken = None

    def forget(self, partition_id: str = "train") -> None:
        """Of a checkpoint's buffer, rows that had been trained on when it was written."""
        self._sync_metadata_from_transfer_queue()
        keys = list(self.partitions[partition_id])
        if keys:
            tq.kv_clear(keys=keys, partition_id=partition_id)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, Any]:
        """Wait for a batch of groups inside the window.

        Raises:
            InfraError: no episode can be graded.
        """
        begun = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            self._settle(partition_id)
            batch = self.fifo.poll(time.monotonic())
            if batch is not None:
                break
            self._refill()
            begun = self._wait_for_next_poll(partition_id, begun)
        self.taken = batch.number
        uids = [value for item in batch.items for value in item.values]
        for uid in uids:
            del self.items[uid]
        snapshot = dict(self.partitions[partition_id])
        metrics = {f"m2gym/window_{k}": v for k, v in self.fifo.metrics.summary().items()}
        return self._materialize_batch(partition_id, uids, snapshot), metrics

    def _settle(self, partition_id: str) -> None:
        done = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        for uid in sorted(done & set(self.items), key=lambda uid: self.items[uid]):
            item = self.items[uid]
            if self.fifo.state(item) is not State.RUNNING:
                continue
            if self._usable(partition_id, uid):
                self._empty = 0
                self.fifo.finish(item, uid, time.monotonic())
                continue
            self._empty += 1
            self.dropped += 1
            self.fifo.fail(item, time.monotonic())
            self._clear_groups(partition_id, {uid})
            del self.items[uid]
            if self._empty >= EMPTY_ROUNDS * self.fifo.batch:
                raise InfraError(
                    f"no episode of {self._empty} groups could be graded: {dict(self.faults)}"
                )

    def _usable(self, partition_id: str, uid: str) -> bool:
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] == uid]
        if not keys:
            self.faults["the agent loop raised"] += 1
            return False
        found = tq.kv_batch_get(
            keys=keys, partition_id=partition_id, select_fields=["extra_fields"]
        )
        masked = [getattr(x, "data", x)["masked"] for x in found["extra_fields"]]
        if not all(masked):
            return True
        self.faults.update(masked)
        return False

    def _refill(self) -> None:
        if self.fifo.room and self.refill_fn is not None:
            self.refill_fn(self.fifo.room)
