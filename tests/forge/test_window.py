"""The schedule: semantics of the window, its bound, policies, metrics, bad input."""

from __future__ import annotations

import doctest
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import InputError
from m2gym.forge import window as window_module
from m2gym.forge.window import State, WindowedFifo, WindowFullError, lag_bound, window_size


def filled(capacity: int, window: int | float, batch: int = 1, **kw) -> WindowedFifo[int]:
    fifo: WindowedFifo[int] = WindowedFifo(capacity, window, batch, **kw)
    for _ in range(capacity):
        fifo.start(fifo.admit())
    return fifo


def drain(fifo: WindowedFifo[int]) -> list[int]:
    out: list[int] = []
    while (batch := fifo.poll()) is not None:
        out += [item.index for item in batch.items]
        fifo.release(batch.number)
    return out


def test_worked_example():
    result = doctest.testmod(window_module)
    assert result.attempted > 8
    assert result.failed == 0


def test_strict_takes_only_in_order():
    fifo = filled(4, 1)
    for index in (3, 2, 1):
        fifo.finish(index, index)
    assert drain(fifo) == []
    fifo.finish(0, 0)
    assert drain(fifo) == [0, 3 - 2, 2, 3]


def test_greedy_takes_in_order_of_finishing():
    fifo = filled(4, 1.0)
    for index in (3, 1, 2):
        fifo.finish(index, index)
    assert drain(fifo) == [3, 1, 2]


def test_consumed_items_keep_their_place():
    fifo = filled(6, 3)
    for index in (1, 2, 3, 4):
        fifo.finish(index, index)
    assert drain(fifo) == [1, 2], "3 lies beyond [0, 2] although 1 and 2 are gone"
    fifo.finish(0, 0)
    assert drain(fifo) == [0, 3, 4]


def test_window_slides_while_a_batch_forms():
    fifo = filled(4, 1, batch=3)
    fifo.finish(1, 1)
    fifo.finish(0, 0)
    assert fifo.poll() is None
    assert fifo.head == 2
    fifo.finish(2, 2)
    batch = fifo.poll()
    assert batch is not None
    assert [item.index for item in batch.items] == [0, 1, 2]


def test_capacity_counts_items_in_training():
    fifo = filled(2, 1.0, batch=1)
    fifo.finish(0, 0)
    batch = fifo.poll()
    assert batch is not None
    assert fifo.state(0) is State.TRAINING
    with pytest.raises(WindowFullError, match="release a batch"):
        fifo.admit()
    fifo.release(batch.number)
    assert fifo.admit() == 2


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 12])
def test_bound_is_attained(capacity):
    """The slowest item admitted last, all others as fast as can be: the lag is the bound."""
    for window in range(1, capacity + 1):
        for batch_size in range(1, capacity + 1):
            fifo = filled(capacity, window, batch_size)
            slow, lag = capacity - 1, None
            finished = set()
            while lag is None:
                progress = False
                for index in range(fifo.head, fifo.head + capacity + window):
                    if index != slow and index not in finished and fifo.state(index) is not None:
                        fifo.finish(index, index)
                        finished.add(index)
                batch = fifo.poll()
                if batch is None and slow not in finished:
                    fifo.finish(slow, slow)
                    finished.add(slow)
                    continue
                assert batch is not None
                progress = True
                lag = next((i.lag_versions for i in batch.items if i.index == slow), None)
                fifo.release(batch.number)
                while fifo.room:
                    fifo.start(fifo.admit())
                assert progress
            assert lag == fifo.max_lag_versions == lag_bound(capacity, window, batch_size)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.data())
def test_no_schedule_exceeds_the_bound(capacity, data):
    window = data.draw(st.integers(1, capacity))
    batch_size = data.draw(st.integers(1, capacity))
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    fifo: WindowedFifo[int] = WindowedFifo(capacity, window, batch_size)
    open_items: set[int] = set()
    in_training: list[int] = []
    taken: list[int] = []
    for _ in range(400):
        move = rng.choice(["admit", "finish", "fail", "poll", "poll", "release"])
        if move == "admit" and fifo.room:
            open_items.add(fifo.admit())
        elif move in ("finish", "fail") and open_items:
            index = rng.choice(sorted(open_items))
            if move == "fail" and rng.random() < 0.8:
                continue
            open_items.discard(index)
            fifo.finish(index, index) if move == "finish" else fifo.fail(index)
        elif move == "poll":
            head = fifo.head
            batch = fifo.poll()
            if batch:
                in_training.append(batch.number)
                for item in batch.items:
                    assert item.overtaken <= window - 1
                    assert item.lag_items <= fifo.max_lag_items
                    assert item.lag_versions <= fifo.max_lag_versions
                    taken.append(item.index)
            assert fifo.head >= head
        elif move == "release" and in_training:
            fifo.release(in_training.pop(0))
    assert len(set(taken)) == len(taken), "an item was handed out twice"


def test_group_is_finished_with_its_last_member():
    fifo = filled(2, 1, group_size=3)
    fifo.finish(0, 10)
    fifo.finish(0, 11)
    assert fifo.poll() is None
    fifo.fail(0)
    batch = fifo.poll()
    assert batch is not None
    assert batch.items[0].values == (10, 11)
    assert fifo.metrics.failed_members == 1


def test_empty_group_blocks_nobody_and_is_counted():
    fifo = filled(2, 1, group_size=2)
    fifo.fail(0)
    fifo.fail(0)
    assert fifo.metrics.dropped == 1
    assert fifo.head == 1
    assert fifo.room == 1


def test_head_that_blocks_is_cut():
    fifo = filled(4, 2, on_blocked="cut", patience=5.0)
    fifo.finish(1, 1, now=1.0)
    batch = fifo.poll(now=1.0)
    assert batch is not None
    fifo.release(batch.number, now=2.0)
    assert fifo.poll(now=2.0) is None
    assert fifo.head_deadline is None, "nothing is finished beyond the window: starved, not blocked"
    fifo.finish(2, 2, now=3.0)
    assert fifo.blocked
    assert fifo.head_deadline == 8.0
    assert fifo.check_head(now=7.9) is None
    action = fifo.check_head(now=8.0)
    assert (action.kind, action.index) == ("cut", 0)
    assert fifo.check_head(now=9.0) is None, "asked once"
    fifo.finish(0, -1, now=9.0)
    assert fifo.poll(now=9.0) is not None
    assert fifo.metrics.cut == 1
    assert fifo.metrics.blocked == pytest.approx(6.0)
    assert fifo.metrics.idle == pytest.approx(7.0)


def test_head_that_blocks_is_dropped_and_frees_its_place():
    fifo = filled(3, 1, on_blocked="drop", patience=0.0)
    fifo.finish(1, 1, now=1.0)
    assert fifo.poll(now=1.0) is None
    action = fifo.check_head(now=1.0)
    assert (action.kind, action.index) == ("drop", 0)
    assert fifo.metrics.dropped == 1
    assert fifo.room == 1
    assert [i.index for i in fifo.poll(now=1.0).items] == [1]


def test_fractions_and_counts():
    assert window_size(10, 0.3) == 3
    assert window_size(3, 0.1) == 1
    assert window_size(8, 1) == 1
    assert window_size(8, 1.0) == 8


@pytest.mark.parametrize("window", [0, 9, -1, 0.0, 1.5, float("nan"), True])
def test_bad_window(window):
    with pytest.raises(InputError):
        WindowedFifo(8, window, 1)


def test_bad_calls_say_what_was_expected():
    with pytest.raises(InputError, match="at least the batch"):
        WindowedFifo(4, 1, 5)
    with pytest.raises(InputError, match="more than max_lag=1"):
        WindowedFifo(8, 4, 4, max_lag=1)
    assert WindowedFifo(8, 4, 4, max_lag=2).max_lag_versions == 2
    with pytest.raises(InputError, match="needs a patience"):
        WindowedFifo(8, 4, 1, on_blocked="cut")
    fifo = filled(2, 1)
    with pytest.raises(InputError, match="gone or never admitted"):
        fifo.finish(7, 0)
    fifo.finish(0, 0)
    with pytest.raises(InputError, match="but it is finished"):
        fifo.finish(0, 0)
    with pytest.raises(InputError, match="in order"):
        fifo.release(0)
    fifo.poll(now=3.0)
    with pytest.raises(InputError, match="backwards"):
        fifo.poll(now=2.0)
