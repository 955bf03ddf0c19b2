"""Limits on what happens at once hold, change while it happens, and let waiters in in order."""

import asyncio

import pytest

from m2gym.core.errors import InputError
from m2gym.core.waiting import Waiting, count_in, waiting
from m2gym.rollout.control import parse_at_once
from m2gym.rollout.gates import AtOnce, Gate, Gates, Rate


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_gate_holds_and_lets_in_in_order():
    gate, order, most = Gate(2), [], 0

    async def work(number):
        nonlocal most
        async with gate.place():
            order.append(number)
            most = max(most, gate.held)
            await settle()

    await asyncio.gather(*(work(n) for n in range(7)))
    assert (order, most, gate.held) == (list(range(7)), 2, 0)


async def test_a_gate_widened_lets_waiters_in_and_narrowed_waits_for_places():
    gate, go = Gate(1), asyncio.Event()

    async def hold():
        async with gate.place():
            await go.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(5)]
    await settle()
    assert (gate.held, gate.waiting) == (1, 4)
    gate.set(3)
    await settle()
    assert (gate.held, gate.waiting) == (3, 2)
    gate.set(0)
    go.set()
    await settle()
    assert (gate.held, gate.waiting) == (0, 2)
    gate.set(None)
    await asyncio.gather(*tasks)
    assert (gate.held, gate.waiting) == (0, 0)


async def test_a_cancelled_waiter_leaves_no_place_held():
    gate = Gate(1)
    await gate.acquire()
    first, second = asyncio.create_task(gate.acquire()), asyncio.create_task(gate.acquire())
    await settle()
    first.cancel()
    await settle()
    gate.release()
    await second
    assert (gate.held, gate.waiting) == (1, 0)
    # let in and cancelled in the same turn of the loop
    third = asyncio.create_task(gate.acquire())
    await settle()
    gate.release()
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    assert gate.held == 0


async def test_a_rate_spaces_starts():
    rate, loop = Rate(50), asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(*(rate.wait() for _ in range(6)))
    assert loop.time() - begun >= 5 / 50 - 0.001
    rate.set(0)
    paused = asyncio.ensure_future(rate.wait())
    await asyncio.sleep(0.06)
    assert not paused.done()
    rate.set(None)
    await asyncio.gather(paused, *(rate.wait() for _ in range(1000)))


async def test_waits_at_the_same_time_count_once():
    clock = Waiting()
    with clock.time("model"):
        one = clock.seconds("model")
        with clock.time("model"):
            await asyncio.sleep(0.05)
    total = clock.seconds("model")
    assert one < 0.05 <= total < 0.1 * 20
    assert clock.totals() == {"model": pytest.approx(total, abs=1e-5)}

    async def elsewhere():
        count_in(clock)
        with waiting("model"):
            await asyncio.sleep(0.02)

    await asyncio.create_task(elsewhere())
    assert clock.seconds("model") >= total + 0.02
    with waiting("model"):
        pass


def test_limits_from_text_say_what_is_wrong():
    base = AtOnce(episodes=4, boxes=2)
    assert parse_at_once({"boxes": "none", "graders": "3"}, base) == AtOnce(episodes=4, graders=3)
    for bad in ({"boxs": "1"}, {"boxes": "many"}, {"boxes": "-1"}, {"creations": "-1"}):
        with pytest.raises(InputError):
            parse_at_once(bad)


def test_gates_tell_their_state():
    gates = Gates(AtOnce(boxes=3))
    gates.set(AtOnce(boxes=5, creations=2.0))
    assert gates.state()["boxes"] == {"limit": 5, "held": 0, "waiting": 0}
    assert gates.state()["creations"] == {"limit": 2.0}
