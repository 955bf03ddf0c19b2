"""A process that dies or hangs is named, whoever waits for it; with real processes of Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from m2gym.backends.verl import watch
from m2gym.backends.verl.watch import PLAYERS, Watch
from tests.backends.verl.needs import verl_here
from tests.backends.verl.processes import gone, ray_processes

pytestmark = [pytest.mark.verl, pytest.mark.timeout(600)]

NAME = f"{PLAYERS}0_x"


class Player:
    async def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def player() -> Iterator[tuple[Any, int]]:
    """Ray, and the pid of a process in it that is named as verl's are."""
    verl_here()
    import ray

    before = ray_processes()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(Player).options(name=NAME, num_cpus=0).remote()
        yield ray, ray.get(actor.pid.remote())
    finally:
        ray.shutdown()
    assert gone(before), "no Ray process is left"


def looked(watching: Watch, seconds: float = 60.0) -> str | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = watching.look()
        if found is not None:
            return found
        time.sleep(watch.PERIOD / 4)
    return None


def test_a_killed_process_is_named(player: tuple[Any, int]) -> None:
    ray, pid = player
    watching = Watch(ray)
    assert looked(watching, 3 * watch.PERIOD) is None
    os.kill(pid, signal.SIGKILL)
    assert looked(watching) == f"{NAME} died: killed from outside, or out of memory"


def test_a_stopped_process_hangs_and_a_busy_one_does_not(player: tuple[Any, int]) -> None:
    ray, pid = player
    watching = Watch(ray, hang=3 * watch.PERIOD)
    assert looked(watching, 5 * watch.PERIOD) is None
    os.kill(pid, signal.SIGSTOP)
    assert str(looked(watching)).startswith(f"{NAME} answered nothing for")
