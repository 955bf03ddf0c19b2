"""Rate limits and retries, by the arithmetic of their waits."""

import asyncio

from m2gym.backends.pace import MINUTE, Pace
from m2gym.backends.retry import Retry
from m2gym.core.errors import ModelError, RateLimitError


def test_requests_and_tokens_a_minute():
    pace = Pace(requests_per_minute=2, tokens_per_minute=100)
    pace._calls.extend([10.0, 20.0])
    assert pace.wait(30.0) == 40.0
    assert pace.wait(71.0) == 0.0
    pace._tokens.extend([(60.0, 70), (65.0, 40)])
    assert pace.wait(80.0) == 60.0 + MINUTE - 80.0
    assert pace.wait(121.0) == 0.0


async def test_no_more_calls_at_once_than_allowed():
    pace, most, running = Pace(at_once=3), 0, 0

    async def call():
        nonlocal most, running
        async with pace.turn():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    await asyncio.gather(*(call() for _ in range(9)))
    assert most == 3


def test_a_provider_that_asks_to_wait_holds_everybody_back():
    pace = Pace()
    assert pace.wait(0.0) == 0.0
    pace.pause(5)
    now = pace._until - 2
    assert pace.wait(now) == 2


def test_waits_grow_and_end():
    retry = Retry(tries={"server": 4}, base=1, longest=3)
    error = ModelError("x", cause="server")
    waits = [retry.wait(error, n) for n in (1, 2, 3)]
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2
    assert 1.5 <= waits[2] <= 3
    assert retry.wait(error, 4) is None
    assert retry.wait(ModelError("x", cause="auth"), 1) is None
    assert Retry().wait(RateLimitError("x", retry_after=7.5), 1) == 7.5
    assert Retry(patience=60).wait(RateLimitError("x", retry_after=61), 1) is None
