"""Run by a Python that has SWE-ReX: seconds of its local runtime's session and commands.

    bench_swerex.py ROUNDS  →  {"start": …, "command": …, "execute": …, "failed": …}

Medians. ``command`` is one in a bash session, its exit code asked for, as by default; ``execute``
one without a session. Commands in the session that SWE-ReX gave up on (it waits a second for a
prompt) are counted and not timed. No part of m2gym is imported here.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def measure(rounds: int) -> dict[str, float]:
    """Start a session and run ``true`` in it, and beside it."""
    abstract: Any = importlib.import_module("swerex.runtime.abstract")
    local: Any = importlib.import_module("swerex.runtime.local")

    async def timed(call: Callable[[], Awaitable[Any]]) -> float:
        began = time.perf_counter()
        await call()
        return time.perf_counter() - began

    runtime = local.LocalRuntime()
    asked = abstract.CreateBashSessionRequest(startup_timeout=30)
    start = await timed(lambda: runtime.create_session(asked))
    action = abstract.BashAction(command="true")
    plain = abstract.Command(command=["bash", "-c", "true"])
    given_up: Any = importlib.import_module("swerex.exceptions").CommandTimeoutError
    commands: list[float] = []
    failed = 0
    while len(commands) + failed < rounds:
        try:
            commands.append(await timed(lambda: runtime.run_in_session(action)))
        except given_up:
            failed += 1
    executed = [await timed(lambda: runtime.execute(plain)) for _ in range(rounds)]
    await runtime.close()
    return {
        "start": start,
        "command": statistics.median(commands) if commands else float("nan"),
        "execute": statistics.median(executed),
        "failed": failed,
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(asyncio.run(measure(int(sys.argv[1])))))
