"""Windowed FIFO: which finished items a trainer may take, and how stale they can be.

An *item* (one trajectory, or one group of ``group_size``) gets the next index when it is admitted.
The *head* is the oldest index not yet consumed. Only finished items with an index in
``[head, head + W - 1]`` may be taken; inside the window in the order they finished, beyond it none,
even if done. The window is by index: an item consumed out of order keeps its place in the window
until the head has passed it (Forge, "Windowed FIFO").

::

             admit           start           finish           poll             release
     room ─────────► waiting ─────► running ─────► finished ─────────► training ─────────► gone
                        │              │              │
                        └──────────────┴── fail, drop ┴──► dropped: counted, never trained on

     capacity N counts  └──── waiting + running + finished + training ────┘
     index      …  5   6   7   8   9   10   11   12
                           ▲ head (slow)    ┊
                  consumed │ window W = 4   ┊ finished, but not to be taken
                           [ 7   8   9   10 ]

Counting what is *in training* too keeps items from being born stale: an item admitted while a
batch trains would otherwise start under weights that are already being replaced.

**The bound.** An item is admitted only while at most N - 1 others are present. Between its
admission and the moment it is taken, training consumes at most those N - 1, and at most W - 1
younger ones (more would lie beyond the window). With B items a batch, batches are runs of B in the
order of taking, so

    lag in items     <=  (N - 1) + (W - 1)
    lag in versions  <=  ((N - 1) + (W - 1)) // B,  and 0 when N = B (no room while training)

W = 1 is strict FIFO, W = N is greedy. The refill rule (admit whenever a place is free, whatever
the index) and the order inside the window (first finished, first taken) are undisclosed in the
source: both are this project's choice.

The worked example, N = 8 and W = 4: tolerance 3, largest lag 10.

>>> fifo = WindowedFifo(capacity=8, window=4, batch=1)
>>> fifo.tolerance, fifo.max_lag_items, fifo.max_lag_versions
(3, 10, 10)
>>> for _ in range(fifo.room):
...     fifo.start(fifo.admit())
>>> taken = []
>>> def train_all():
...     while (batch := fifo.poll()) is not None:
...         taken.extend((item.index, item.lag_items) for item in batch.items)
...         fifo.release(batch.number)
...         fifo.start(fifo.admit())
>>> for index in [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]:  # 7 is a straggler
...     fifo.finish(index, None)
...     train_all()
>>> [index for index, _ in taken], fifo.head           # 11 is done, and lies beyond the window
([0, 1, 2, 3, 4, 5, 6, 8, 9, 10], 7)
>>> fifo.finish(7, None); train_all(); taken[-2:]      # 7 waited for 10 updates
[(7, 10), (11, 7)]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Literal, TypeVar

from m2gym.core.errors import InputError, M2GymError

T = TypeVar("T")


class WindowFullError(InputError):
    """`WindowedFifo.admit` was called with no room."""


class StalenessError(M2GymError):
    """An item is staler than the derived bound: the caller broke the order of calls."""


class State(Enum):
    """Where an item is."""

    WAITING = "waiting"  # admitted, no engine works on it yet
    RUNNING = "running"  # being generated
    FINISHED = "finished"  # all members done; may be taken once inside the window
    TRAINING = "training"  # handed to the trainer, its batch is not released
    DROPPED = "dropped"  # failed or given up; passed over, never trained on


HeadPolicy = Literal["wait", "cut", "drop"]
"""What to do with a head that blocks for ``patience``: nothing; end its episode and grade what is
there; or give it up and count it."""


@dataclass(frozen=True)
class Taken(Generic[T]):
    """An item on its way into training.

    ``lag_items``: items trained between its admission and now. ``lag_versions``: weight versions
    between the one current at admission and the one its batch trains. ``overtaken``: younger items
    taken before it.
    """

    index: int
    values: tuple[T, ...]
    lag_items: int
    lag_versions: int
    overtaken: int


@dataclass(frozen=True)
class Batch(Generic[T]):
    """``batch`` items for one optimiser step; ``number`` counts from 0, and goes to `release`."""

    number: int
    items: tuple[Taken[T], ...]


@dataclass(frozen=True)
class HeadAction:
    """Asked of the caller: end episode ``index`` and grade it (cut), or abort it (drop)."""

    kind: Literal["cut", "drop"]
    index: int


@dataclass
class WindowMetrics:
    """Totals since the start; times in the caller's clock.

    ``idle`` is the time the trainer waited; ``blocked`` the part of it in which something was
    finished beyond the window.
    """

    admitted: int = 0
    taken: int = 0
    dropped: int = 0
    failed_members: int = 0
    cut: int = 0
    idle: float = 0.0
    blocked: float = 0.0
    lag_items_max: int = 0
    lag_items_sum: int = 0
    lag_versions_max: int = 0
    lag_versions_sum: int = 0
    overtaken_max: int = 0
    overtaken_sum: int = 0

    def summary(self) -> dict[str, float]:
        """Counts, times and means, flat, for a log line."""
        n = max(self.taken, 1)
        return {
            "admitted": self.admitted,
            "taken": self.taken,
            "dropped": self.dropped,
            "failed_members": self.failed_members,
            "cut": self.cut,
            "idle": self.idle,
            "blocked": self.blocked,
            "lag_items_mean": self.lag_items_sum / n,
            "lag_items_max": self.lag_items_max,
            "lag_versions_mean": self.lag_versions_sum / n,
            "lag_versions_max": self.lag_versions_max,
            "order_distortion_mean": self.overtaken_sum / n,
            "order_distortion_max": self.overtaken_max,
        }


@dataclass
class _Item(Generic[T]):
    expected: int
    released_items: int
    version: int
    state: State = State.WAITING
    cut: bool = False
    values: list[T] = field(default_factory=list)


def window_size(capacity: int, window: int | float) -> int:
    """W from a count (int, 1..N) or a fraction of N (float in (0, 1], rounded down, at least 1).

    >>> window_size(8, 4), window_size(10, 0.3), window_size(8, 1.0), window_size(8, 1)
    (4, 3, 8, 1)
    """
    if isinstance(window, bool):
        raise InputError(f"window is a count (int) or a fraction of N (float), got {window}")
    if isinstance(window, float):
        if not 0.0 < window <= 1.0:
            raise InputError(f"a window given as a fraction lies in (0, 1], got {window}")
        return max(1, math.floor(window * capacity + 1e-9))
    if not 1 <= window <= capacity:
        raise InputError(f"a window given as a count lies in 1..{capacity} (N), got {window}")
    return window


def lag_bound(capacity: int, window: int, batch: int) -> int:
    """Largest off-policy lag in weight versions, from N, W (counts) and the batch size B."""
    return 0 if capacity == batch else (capacity + window - 2) // batch


class WindowedFifo(Generic[T]):
    """The schedule: admits, orders and hands out items; generates and trains nothing itself.

    Args:
        capacity: N, the most items present at once, those in training included.
        window: W, an int count or a float fraction of N.
        batch: B, items a training batch; at most N.
        group_size: members an item has; it is finished when all that did not fail are.
        max_lag: the largest lag in weight versions you accept; refused here if N, W and B allow
            more.
        on_blocked: what to do with a head that blocks longer than ``patience``.
        patience: in the caller's clock; needed unless ``on_blocked`` is ``wait``.

    Every method takes ``now``, the caller's clock, which must not run backwards; leave it out where
    times do not matter.
    """

    def __init__(
        self,
        capacity: int,
        window: int | float,
        batch: int,
        *,
        group_size: int = 1,
        max_lag: int | None = None,
        on_blocked: HeadPolicy = "wait",
        patience: float | None = None,
    ) -> None:
        if capacity < 1 or batch < 1 or group_size < 1:
            raise InputError(
                f"capacity, batch and group_size are at least 1, got {capacity}, {batch}, "
                f"{group_size}"
            )
        if batch > capacity:
            raise InputError(
                f"a batch of {batch} never fills with capacity {capacity}: items in training count,"
                f" so capacity must be at least the batch"
            )
        if on_blocked not in ("wait", "cut", "drop"):
            raise InputError(f"on_blocked is wait, cut or drop, got {on_blocked!r}")
        if on_blocked != "wait" and (patience is None or not patience >= 0):
            raise InputError(f"on_blocked={on_blocked!r} needs a patience >= 0, got {patience}")
        self.capacity, self.batch, self.group_size = capacity, batch, group_size
        self.window = window_size(capacity, window)
        self.tolerance = self.window - 1
        self.max_lag_items = capacity + self.window - 2
        self.max_lag_versions = lag_bound(capacity, self.window, batch)
        if max_lag is not None and self.max_lag_versions > max_lag:
            raise InputError(
                f"N={capacity}, W={self.window}, B={batch} allow a lag of {self.max_lag_versions} "
                f"versions, more than max_lag={max_lag}; keep N + W - 2 below "
                f"{(max_lag + 1) * batch}"
            )
        self.on_blocked, self.patience = on_blocked, patience
        self.metrics = WindowMetrics()
        self.version = 0
        self.head = 0
        self._next = 0
        self._items: dict[int, _Item[T]] = {}
        self._finished: dict[int, None] = {}  # insertion order is the order of finishing
        self._ahead: set[int] = set()  # consumed or dropped, above the head
        self._taken_ahead: set[int] = set()
        self._forming: list[Taken[T]] = []
        self._training: dict[int, tuple[int, ...]] = {}
        self._batches = 0
        self._taken = 0
        self._now = -math.inf
        self._demand = False
        self._blocked_since: float | None = None

    @property
    def room(self) -> int:
        """How many items may be admitted now."""
        return self.capacity - len(self._items)

    @property
    def blocked(self) -> bool:
        """The trainer waits, nothing in the window is finished, something beyond it is."""
        return self._demand and bool(self._finished) and min(self._finished) > self._last

    @property
    def head_deadline(self) -> float | None:
        """When `check_head` will act, if nothing changes before."""
        if self._blocked_since is None or self.patience is None or self.on_blocked == "wait":
            return None
        item = self._items.get(self.head)
        return None if item is None or item.cut else self._blocked_since + self.patience

    def state(self, index: int) -> State | None:
        """State of an item still present; ``None`` for one gone or dropped."""
        item = self._items.get(index)
        return None if item is None else item.state

    def admit(self, now: float = 0.0) -> int:
        """Give a new item its index; `WindowFullError` when there is no `room`."""
        self._advance(now)
        if self.room <= 0:
            raise WindowFullError(
                f"all {self.capacity} places are taken (waiting, running, finished or in training);"
                f" release a batch before admitting"
            )
        index = self._next
        self._next += 1
        released = self.version * self.batch
        self._items[index] = _Item(self.group_size, released, self.version)
        self.metrics.admitted += 1
        return index

    def start(self, index: int, now: float = 0.0) -> None:
        """An engine has begun to generate the item."""
        self._advance(now)
        self._expect(index, State.WAITING).state = State.RUNNING

    def finish(self, index: int, value: T, now: float = 0.0) -> None:
        """One member of the item is done; with the last the item is finished."""
        self._advance(now)
        item = self._expect(index, State.WAITING, State.RUNNING)
        item.values.append(value)
        self._settle(index, item)
        self._watch(now)

    def fail(self, index: int, now: float = 0.0) -> None:
        """One member came to nothing (infrastructure, invalid): the item goes on without it.

        An item with no member left is dropped: the empty group blocks nobody.
        """
        self._advance(now)
        item = self._expect(index, State.WAITING, State.RUNNING)
        item.expected -= 1
        self.metrics.failed_members += 1
        if item.expected == 0:
            self._drop(index)
        else:
            self._settle(index, item)
        self._watch(now)

    def drop(self, index: int, now: float = 0.0) -> None:
        """Give the whole item up: counted, passed over, never trained on."""
        self._advance(now)
        self._expect(index, State.WAITING, State.RUNNING, State.FINISHED)
        self._drop(index)
        self._watch(now)

    def poll(self, now: float = 0.0) -> Batch[T] | None:
        """The next batch, or ``None`` while too few may be taken (the trainer then waits).

        Items go into the forming batch as soon as they may be taken, so the window slides even when
        W is smaller than B.
        """
        self._advance(now)
        while len(self._forming) < self.batch:
            index = next((i for i in self._finished if i <= self._last), None)
            if index is None:
                self._demand = True
                self._watch(now)
                return None
            self._forming.append(self._take(index))
        self._demand = False
        self._watch(now)
        batch = Batch(self._batches, tuple(self._forming))
        self._training[batch.number] = tuple(item.index for item in batch.items)
        self._batches += 1
        self._forming = []
        return batch

    def release(self, number: int, now: float = 0.0) -> None:
        """Batch ``number`` is trained and its weights are published; batches end in order."""
        self._advance(now)
        if number != self.version or number not in self._training:
            raise InputError(
                f"batches are released once and in order; expected {self.version}"
                f"{'' if self.version in self._training else ' (not handed out yet)'}, got {number}"
            )
        for index in self._training.pop(number):
            del self._items[index]
        self.version += 1

    def check_head(self, now: float = 0.0) -> HeadAction | None:
        """Apply the head policy: the caller ends (cut) or aborts (drop) the named episode.

        A cut item stays in its place until the caller calls `finish` with what was graded.
        """
        self._advance(now)
        deadline = self.head_deadline
        if deadline is None or now < deadline:
            return None
        index = self.head
        if self.on_blocked == "cut":
            self._items[index].cut = True
            self.metrics.cut += 1
            return HeadAction("cut", index)
        self._drop(index)
        self._watch(now)
        return HeadAction("drop", index)

    @property
    def _last(self) -> int:
        return self.head + self.window - 1

    def _advance(self, now: float) -> None:
        if now < self._now:
            raise InputError(f"the clock ran backwards: {now} after {self._now}")
        if self._demand and self._now > -math.inf:
            self.metrics.idle += now - self._now
            if self.blocked:
                self.metrics.blocked += now - self._now
        self._now = now

    def _watch(self, now: float) -> None:
        if not self.blocked:
            self._blocked_since = None
        elif self._blocked_since is None:
            self._blocked_since = now

    def _expect(self, index: int, *states: State) -> _Item[T]:
        item = self._items.get(index)
        if item is None or item.state not in states:
            have = "gone or never admitted" if item is None else item.state.value
            want = " or ".join(state.value for state in states)
            raise InputError(f"item {index} must be {want}, but it is {have}")
        return item

    def _settle(self, index: int, item: _Item[T]) -> None:
        if len(item.values) == item.expected:
            item.state = State.FINISHED
            self._finished[index] = None

    def _drop(self, index: int) -> None:
        del self._items[index]
        self._finished.pop(index, None)
        self.metrics.dropped += 1
        self._pass(index)

    def _take(self, index: int) -> Taken[T]:
        item = self._items[index]
        item.state = State.TRAINING
        del self._finished[index]
        taken = Taken(
            index,
            tuple(item.values),
            lag_items=self._taken - item.released_items,
            lag_versions=self._batches - item.version,
            overtaken=sum(1 for other in self._taken_ahead if other > index),
        )
        if taken.lag_items > self.max_lag_items or taken.lag_versions > self.max_lag_versions:
            raise StalenessError(
                f"item {index} lags {taken.lag_items} items and {taken.lag_versions} versions; the "
                f"bound is {self.max_lag_items} and {self.max_lag_versions}"
            )
        self._taken += 1
        self._taken_ahead.add(index)
        self._pass(index)
        self._count(taken)
        return taken

    def _pass(self, index: int) -> None:
        self._ahead.add(index)
        if index == self.head:
            self._blocked_since = None
        while self.head in self._ahead:
            self._ahead.discard(self.head)
            self._taken_ahead.discard(self.head)
            self.head += 1

    def _count(self, taken: Taken[T]) -> None:
        m = self.metrics
        m.taken += 1
        m.lag_items_sum += taken.lag_items
        m.lag_items_max = max(m.lag_items_max, taken.lag_items)
        m.lag_versions_sum += taken.lag_versions
        m.lag_versions_max = max(m.lag_versions_max, taken.lag_versions)
        m.overtaken_sum += taken.overtaken
        m.overtaken_max = max(m.overtaken_max, taken.overtaken)
