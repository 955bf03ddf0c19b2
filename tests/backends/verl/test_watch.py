"""A process that dies or hangs is named, whoever waits for it; with real processes of Ray."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from m2gym.backends.verl import watch
from m2gym.backends.verl.watch import PLAYERS, Watch, named
from tests.backends.verl.needs import verl_here
from tests.backends.verl.processes import gone, ray_processes

pytestmark = [pytest.mark.verl, pytest.mark.timeout(600)]

NAME = f"{PLAYERS}0_x"


class Player:
    async def pid(self) -> int:
        return os.getpid()

    async def slow(self) -> None:
        await asyncio.sleep(600)


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


class Asking:
    def pid_of(self, player: Any) -> int:
        import ray

        return int(ray.get(player.slow.remote()))


def test_the_name_is_in_what_another_process_hears_of_it(player: tuple[Any, int]) -> None:
    ray, pid = player
    asking = ray.remote(Asking).options(num_cpus=0).remote()
    done = asking.pid_of.remote(ray.get_actor(NAME))
    ray.wait([done], timeout=2)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayError) as error:
        ray.get(done)
    assert named(error.value) == f"{NAME} died: killed from outside, or out of memory"
    assert named(ValueError("name: of nothing that died")) is None
