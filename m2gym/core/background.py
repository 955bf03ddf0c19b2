"""One event loop on a daemon thread, on which the synchronous API runs the asynchronous one.

A notebook's own running loop is therefore never in the way.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, started on first use."""
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="m2gym-loop", daemon=True).start()
        return _loop


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait; an interrupt cancels it and waits for it."""
    loop = background_loop()
    if threading.current_thread().name == "m2gym-loop":
        coroutine.close()
        raise RuntimeError(
            "the synchronous API was called from m2gym's own loop; use the async one"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(timeout=5)
        raise


def _forget_loop() -> None:
    """A forked child has the loop object but not its thread."""
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_loop)
