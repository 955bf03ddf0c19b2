"""Bounds on boxes over all processes."""

from __future__ import annotations

import asyncio

import pytest

from m2gym.core.errors import InfraError, InputError
from m2gym.workspaces import slots


async def test_no_more_than_the_bound_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2GYM_BOXES_PER_SECOND", "1000")
    monkeypatch.setenv("M2GYM_BOXES", "2")
    first, second = await slots.acquire(), await slots.acquire()
    third = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0.1)
    assert not third.done()
    with slots.for_grading():
        (await asyncio.wait_for(slots.acquire(), 10)).release()
    first.release()
    first.release()
    (await asyncio.wait_for(third, 10)).release()
    second.release()


async def test_waiting_too_long_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2GYM_BOXES", "1")
    held = await slots.acquire()
    monkeypatch.setattr(slots, "PATIENCE", 0.05)
    with pytest.raises(InfraError, match="set M2GYM_BOXES"):
        await slots.acquire()
    held.release()
    monkeypatch.setenv("M2GYM_BOXES", "many")
    with pytest.raises(InputError, match="whole number"):
        await slots.acquire()


async def test_boxes_are_made_at_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2GYM_BOXES_PER_SECOND", "20")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(32):
        (await slots.acquire()).release()
    assert loop.time() - began > 0.4
