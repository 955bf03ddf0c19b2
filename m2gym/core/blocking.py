"""Run a coroutine from ordinary code, interruptibly, also inside a notebook's running loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result.

    SIGINT and SIGTERM cancel it once; when its clean-up is over `KeyboardInterrupt` is raised.
    Further ones are ignored until then, so that no clean-up is cut short. With a loop running in
    this thread the coroutine runs on a loop of its own in another thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_here(work)
    return _run_beside(work)


def _run_here(work: Coroutine[Any, Any, T]) -> T:
    interrupted = False

    async def main() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            nonlocal interrupted
            if not interrupted:
                interrupted = True
                task.cancel()

        main_thread = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if main_thread else ():
            loop.add_signal_handler(number, stop)
        try:
            return await task
        finally:
            for number in SIGNALS if main_thread else ():
                loop.remove_signal_handler(number)

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


def _run_beside(work: Coroutine[Any, Any, T]) -> T:
    result: Future[T] = Future()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()
    interrupted = False

    async def main() -> T:
        task = asyncio.ensure_future(work)
        started.set_result((asyncio.get_running_loop(), task))
        if interrupted:
            task.cancel()
        return await task

    def thread() -> None:
        try:
            result.set_result(asyncio.run(main()))
        # whatever it is, it belongs to the thread that waits
        except BaseException as error:
            result.set_exception(error)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            if started.done():
                loop, task = started.result()
                loop.call_soon_threadsafe(task.cancel)

    worker = threading.Thread(target=thread, name="m2gym-evaluate")
    with _handled(stop):
        worker.start()
        worker.join()
    if interrupted:
        raise KeyboardInterrupt
    return result.result()


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """``handler`` for `SIGNALS`, where this thread may set it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)
