"""Cores for a model so small that a pass is thousands of short calls.

To hand each call to several cores, as torch does, takes longer than to compute it on one, much
longer where other processes want those cores. So every call is one core's; a pass over prompts is
cut in lanes that know nothing of each other, a core each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

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


class Lanes:
    """As many as torch has threads where this is made; to be used under `one_thread`."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            max(1, self.count - 1), "m2gym-lane", initializer=torch.set_num_threads, initargs=(1,)
        )

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """``work`` of every part, the first in this thread."""
        others = [self._pool.submit(work, part) for part in parts[1:]]
        try:
            first = work(parts[0])
        finally:
            found = [other.result() for other in others]
        return [first, *found]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)
