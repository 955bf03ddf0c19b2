"""Who asks while others are let in is let in next, and nobody waits for ever."""

import asyncio
import threading
from collections import deque

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.core.errors import ModelError  # noqa: E402
from m2gym.core.protocols import Sampling  # noqa: E402
from tests.backends.local.models import tiny  # noqa: E402
from tests.backends.local.test_engine import engine_of, prompt  # noqa: E402

ASK = Sampling(temperature=0, max_tokens=3)


class Late(deque):
    """Has somebody ask once whenever the engine's thread has looked at who waits."""

    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def __iter__(self):
        yield from list(super().__iter__())
        if threading.current_thread().name.startswith("m2gym-engine"):
            self.ask()


async def test_who_asks_while_others_are_let_in_is_let_in_next():
    engine = engine_of(tiny("llama"))
    loop, late, left = asyncio.get_running_loop(), [], [5, 4, 3]

    async def another():
        late.append(asyncio.create_task(engine.generate(prompt(left.pop()), ASK, session_id="l")))
        await asyncio.sleep(0)

    def ask():
        if left:
            asyncio.run_coroutine_threadsafe(another(), loop).result(30)

    engine._waiting = Late(ask)
    async with asyncio.timeout(60):
        first = await asyncio.gather(
            *(engine.generate(prompt(n), ASK, session_id=str(n)) for n in (6, 7))
        )
        outputs = [*first, *(await asyncio.gather(*late))]
    engine.close()
    assert len(outputs) == 5
    assert all(len(output.ids) == 3 for output in outputs)


async def test_who_is_being_let_in_when_the_engine_fails_hears_of_it(monkeypatch):
    engine = engine_of(tiny("llama"))
    opened, open_row = [], engine.store.open

    def fails_second(*arguments):
        opened.append(arguments)
        if len(opened) == 2:
            raise RuntimeError("no row")
        return open_row(*arguments)

    monkeypatch.setattr(engine.store, "open", fails_second)
    async with asyncio.timeout(60):
        ends = await asyncio.gather(
            *(engine.generate(prompt(n), ASK, session_id=str(n)) for n in (4, 5, 6)),
            return_exceptions=True,
        )
        assert [type(end) for end in ends] == [ModelError] * 3
        again = await engine.generate(prompt(4), ASK, session_id="again")
    engine.close()
    assert len(again.ids) == 3
