"""Commands in a box beyond the conformance suite; for every kind with our supervisor."""

import asyncio
import os
import signal
import time

import pytest

from m2gym.core.errors import InputError
from m2gym.workspaces.supervised import SupervisedWorkspace

from .conftest import MakeBox

Box = SupervisedWorkspace


async def test_path_of_the_command_finds_the_program(box: Box) -> None:
    await box.write("bin/greet", b"#!/bin/sh\necho hello\n", mode=0o755)
    folder = (await box.exec("pwd")).stdout.decode().strip()
    result = await box.exec(["greet"], env={"PATH": f"{folder}/bin:/usr/bin:/bin"})
    assert result.stdout == b"hello\n"


async def test_the_variables_of_a_command(kind: str, make: MakeBox) -> None:
    box = await make(kind, env={"OF_TASK": "1"})

    async def names(env: dict[str, str] | None = None) -> set[str]:
        told = (await box.exec("env", env=env)).output
        return {line.split("=")[0] for line in told.splitlines()}

    always = {"PATH", "HOME", "USER", "LOGNAME", "TERM", "PWD", "SHLVL", "_", "OF_TASK"}
    assert await names() == always | {"LC_CTYPE"}
    assert await names({"LANG": "C"}) == always | {"LANG"}


async def test_characters_are_utf_8(box: Box) -> None:
    assert (await box.exec("x=äöü; echo ${#x}")).stdout == b"3\n"
    assert (await box.exec("x=äöü; echo ${#x}", env={"LC_ALL": "C"})).stdout == b"6\n"


async def test_a_server_left_behind_survives_its_own_output(box: Box) -> None:
    await box.exec("(for i in $(seq 200000); do echo line $i; done; touch finished) & disown")
    for _ in range(200):
        if (await box.exec("test -e finished")).ok:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the background writer was blocked or killed by its output")


async def test_too_many_arguments_are_refused(box: Box) -> None:
    with pytest.raises(InputError, match="at most"):
        await box.exec(["echo", "y" * 200_000])
    assert (await box.exec("echo ok")).stdout == b"ok\n"


async def test_a_signal_is_not_lost_when_it_comes_before_the_command_runs(box: Box) -> None:
    processes = [await box.spawn(["sleep", "9876"]) for _ in range(20)]
    for process in processes:
        await process.signal(signal.SIGTERM)
    assert [await process.wait() for process in processes] == [143] * 20
    absent = await box.spawn(["/no/such/program"])
    await absent.signal(signal.SIGTERM)
    assert await absent.wait() == 127


async def test_spawn_takes_megabytes_with_a_slow_reader(box: Box) -> None:
    process = await box.spawn(["cat"])
    data = os.urandom(3 << 20)

    async def feed() -> None:
        await process.write(data)
        await process.close_stdin()

    feeding = asyncio.create_task(feed())
    parts = []
    async for part in process.stdout():
        parts.append(part)
        await asyncio.sleep(0)
    await feeding
    assert b"".join(parts) == data
    assert await process.wait() == 0


async def test_a_port_that_is_taken_is_refused(box: Box) -> None:
    with await box.listen(0) as listener, pytest.raises(InputError, match="taken"):
        await box.listen(listener.getsockname()[1])


async def test_seconds_are_measured(box: Box) -> None:
    began = time.monotonic()
    result = await box.exec("sleep 0.2")
    assert 0.2 <= result.seconds <= time.monotonic() - began
