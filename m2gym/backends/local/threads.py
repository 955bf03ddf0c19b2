"""Cores for a model so small that a pass is thousands of short calls.

To hand each call to several cores, as torch does, takes longer than to compute it on one, much
longer where other processes want those cores. So every call is one core's; a pass over prompts is
cut in lanes that know nothing of each other, a core each.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

SMALL = 20_000_000
"""Parameters below which a model is taken for such a one. Ours: with m2-nano's 3.7M two cores a
call train no faster than one, and 4 times slower beside other processes."""

TURN = 2e-4
"""Ours; shorter ones gain nothing with m2-nano."""

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes every call of this thread on one core; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _ShortTurns:
    """While anyone is inside, threads of Python take turns every `TURN` seconds, not the usual 5
    ms: a lane that comes out of a call of torch waits that long for one that computes in Python.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._usual = threading.Lock(), 0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, TURN))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._usual)


_short_turns = _ShortTurns()


class Lanes:
    """As many as torch has threads where this is made; to be used under `one_thread`."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            max(1, self.count - 1), "m2gym-lane", initializer=torch.set_num_threads, initargs=(1,)
        )

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """``work`` of every part, the first in this thread."""
        if len(parts) == 1:
            return [work(parts[0])]
        with _short_turns:
            others = [self._pool.submit(work, part) for part in parts[1:]]
            try:
                first = work(parts[0])
            finally:
                found = [other.result() for other in others]
        return [first, *found]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)
