"""Records of many episodes, synced together: one wait for the disk serves all that came meanwhile.

An episode counts as done when `GroupCommit.append` comes back: then its line is on the disk.
"""

from __future__ import annotations

import asyncio

from m2gym.core.errors import InfraError
from m2gym.core.trajectory import Trajectory
from m2gym.rollout.records import encode
from m2gym.rollout.run_folder import RunWriter


class GroupCommit:
    """Appends to a `RunWriter` without blocking the event loop."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def append(self, trajectory: Trajectory) -> None:
        """Come back when the record is on the disk; once begun it gets there, cancelled or not.

        Raises:
            InfraError: the disk is full or fails; the file is as it was before.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((encode(trajectory), done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def drain(self) -> None:
        """Wait until everything appended is on the disk."""
        if self._flushing is not None:
            await asyncio.wait({self._flushing})

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._writer.append_lines, [line for line, _ in batch])
            except InfraError as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
