"""How fast docker boxes are, beside the engine's own ways: ``bench.run(["docker"])``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces.docker_box import DockerWorkspace
from m2gym.workspaces.docker_engine import Engine, engine
from m2gym.workspaces.docker_images import image_of

Figure = tuple[str, float, str, str | None, str]
"""name, value, unit, target, what it is compared with."""


async def figures(rounds: int = 100, count: int = 32) -> list[Figure]:
    """A step, a reset and many boxes at once; medians, taken in turn with what they stand beside.

    Raises:
        CapabilityError: there can be no docker box here.
        InfraError: the engine failed.
    """
    return [*await _commands(rounds), *await _reset(), *await _crowd(count)]


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


async def _awaited(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


@contextlib.contextmanager
def _in_python() -> Iterator[None]:
    """Boxes begun within have the supervisor in Python, as on a machine without a compiler."""
    before = os.environ.get("M2GYM_SUPERVISOR")
    os.environ["M2GYM_SUPERVISOR"] = "python"
    try:
        yield
    finally:
        del os.environ["M2GYM_SUPERVISOR"]
        if before is not None:
            os.environ["M2GYM_SUPERVISOR"] = before


async def _commands(rounds: int) -> list[Figure]:
    box, other = DockerWorkspace(WorkspaceSpec()), DockerWorkspace(WorkspaceSpec())
    try:
        await box.start()
        with _in_python():
            await other.start()
        shell = await box.shell()
        bare, fresh, step, fallback, by_exec = [], [], [], [], []
        host, name = engine(), box.container
        for number in range(rounds):
            bare.append(_seconds(lambda: subprocess.run(["bash", "-c", "true"], check=True)))
            fresh.append(await _awaited(lambda: box.exec("true")))
            step.append(await _awaited(lambda: shell.run("true")))
            fallback.append(await _awaited(lambda: other.exec("true")))
            if number % 5 == 0:
                by_exec.append(_seconds(lambda: _engine_exec(host, name)))
    finally:
        await box.stop()
        await other.stop()
    image = image_of(engine(), WorkspaceSpec())
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=bash", image, "-c", "true"]
    by_run = [_seconds(lambda: subprocess.run(command, check=True)) for _ in range(5)]
    one, two, three, four, five, six = map(
        statistics.median, (bare, fresh, step, by_exec, by_run, fallback)
    )
    base = f"bash -c true on the host: {one * 1e3:.2f} ms"
    return [
        ("docker fresh command / bare process", two / one, "x", "<= 1.2", base),
        ("docker fresh command", two * 1e3, "ms", None, f"docker run --rm: {five * 1e3:.0f} ms"),
        ("docker fresh command, supervisor in Python / bare process", six / one, "x", None,
         f"{six * 1e3:.2f} ms"),
        ("docker shell step", three * 1e3, "ms", None, base),
        ("the SDK's exec / docker fresh command", four / two, "x", ">= 30",
         f"exec: {four * 1e3:.1f} ms"),
    ]  # fmt: skip


def _engine_exec(host: Engine, container: str) -> None:
    made = host.api.exec_create(container, ["bash", "-c", "true"])
    host.api.exec_start(made["Id"])


async def _reset(rounds: int = 8) -> list[Figure]:
    """Start of a box whose task is cached, beside create and start alone."""
    host, image = engine(), image_of(engine(), WorkspaceSpec())
    ours, bare = [], []
    for _ in range(rounds):
        box = DockerWorkspace(WorkspaceSpec())
        began = time.perf_counter()
        await box.start()
        ours.append(time.perf_counter() - began)
        await box.stop()
        began = time.perf_counter()
        made: dict[str, Any] = await asyncio.to_thread(_create_and_start, host, image)
        bare.append(time.perf_counter() - began)
        await asyncio.to_thread(host.remove_container, made["Id"])
    one, two = statistics.median(ours), statistics.median(bare)
    base = f"create + start: {two * 1e3:.0f} ms"
    return [
        ("docker reset / create + start", one / two, "x", "<= 1.5", base),
        ("docker reset of a cached task", one * 1e3, "ms", None, base),
    ]


def _create_and_start(host: Engine, image: str) -> dict[str, Any]:
    settings = host.api.create_host_config(network_mode="none")
    made: dict[str, Any] = host.api.create_container(
        image, entrypoint=["sleep"], command=["600"], host_config=settings, labels=host.labels()
    )
    host.api.start(made["Id"])
    return made


async def _crowd(count: int) -> list[Figure]:
    boxes = [DockerWorkspace(WorkspaceSpec()) for _ in range(count)]
    began = time.perf_counter()
    try:
        results = await asyncio.gather(*(box.exec("true") for box in boxes), return_exceptions=True)
        seconds = time.perf_counter() - began
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(box.stop() for box in boxes))
    failed = sum(isinstance(result, BaseException) for result in results)
    what = f"{count} docker boxes at once"
    return [
        (f"{what}, failed", failed, "boxes", "0", ""),
        (f"{what}, all up", seconds, "s", None, "held to M2GYM_BOXES_PER_SECOND"),
    ]
