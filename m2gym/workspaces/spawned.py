"""A command that is running in a box: the contract's `Process`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from m2gym.workspaces.channel import Failed
from m2gym.workspaces.results import exit_code, failure
from m2gym.workspaces.streams import Sink, Source

if TYPE_CHECKING:
    from m2gym.workspaces.supervised import SupervisedWorkspace


class SupervisedProcess:
    """The contract's `Process`."""

    def __init__(
        self,
        workspace: SupervisedWorkspace,
        number: int,
        ended: asyncio.Future[int | Failed],
        program: str,
        folder: str,
        fds: tuple[int, ...],
    ) -> None:
        self._workspace, self._number, self._ended = workspace, number, ended
        self._program, self._folder = program, folder
        self._stdin, self._stdout, self._stderr = Sink(fds[0]), Source(fds[1]), Source(fds[2])

    async def write(self, data: bytes) -> None:
        """Write to its input; `BrokenPipeError` when it reads no more."""
        await self._stdin.write(data)

    async def close_stdin(self) -> None:
        self._stdin.close()

    def stdout(self) -> AsyncIterator[bytes]:
        return self._stdout.chunks()

    def stderr(self) -> AsyncIterator[bytes]:
        return self._stderr.chunks()

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group; SIGKILL takes the whole tree."""
        if not self._ended.done():
            if number == 9:
                await self._workspace.channel.kill(self._number)
            else:
                self._workspace.channel.signal(self._number, number)

    async def wait(self) -> int:
        """The exit code; `WorkspaceLostError` when the box died first."""
        status = await asyncio.shield(self._ended)
        if isinstance(status, Failed):
            return failure(status, self._program, self._folder)[0]
        return exit_code(status)

    def __del__(self) -> None:
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()
