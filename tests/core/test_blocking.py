import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from m2gym.core.blocking import run_blocking


async def answer():
    await asyncio.sleep(0)
    return 42


def test_outside_and_inside_a_running_loop():
    assert run_blocking(answer()) == 42

    async def notebook():
        return run_blocking(answer())

    assert asyncio.run(notebook()) == 42


def test_errors_come_through_from_both():
    async def bad():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run_blocking(bad())

    async def notebook():
        return run_blocking(bad())

    with pytest.raises(LookupError, match="gone"):
        asyncio.run(notebook())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("inside", [False, True])
def test_a_signal_lets_the_clean_up_finish(number, inside):
    program = textwrap.dedent(
        f"""
        import asyncio
        from m2gym.core.blocking import run_blocking
        async def work():
            try:
                print("working", flush=True)
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.3)
                print("cleaned", flush=True)
        async def notebook():
            run_blocking(work())
        try:
            asyncio.run(notebook()) if {inside} else run_blocking(work())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "working\n"
    os.kill(child.pid, number)
    os.kill(child.pid, number)
    output, _ = child.communicate(timeout=20)
    assert output == "cleaned\ninterrupted\n"
