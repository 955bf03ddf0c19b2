"""Frozen files of a box, which several boxes may be made from."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class Snapshot:
    """The contract's `Snapshot`. Its files are freed when the last that holds them lets go.

    ``content`` is what a ``kind`` of workspace keeps: layers, an image's name, a path.
    """

    def __init__(
        self, kind: str, content: Any, free: Callable[[], object], holders: int = 1
    ) -> None:
        self.kind, self.content, self._free, self._holders = kind, content, free, holders
        self._guard = threading.Lock()
        self.discarded = False

    def hold(self) -> Snapshot:
        with self._guard:
            self._holders += 1
        return self

    def release(self) -> None:
        with self._guard:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._free()

    async def discard(self) -> None:
        """Free the files; boxes made from it keep theirs."""
        if not self.discarded:
            self.discarded = True
            await asyncio.to_thread(self.release)
