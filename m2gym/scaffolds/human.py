"""A person at a prompt."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.console import Console
from rich.markup import escape

from m2gym.core.errors import InputError
from m2gym.core.protocols import Action, Episode


@dataclass
class Human:
    """Shows observations and asks for actions; the end of input (Ctrl-D) submits.

    A line is a shell command; one that starts with ``{`` is a tool call in JSON. Malformed actions
    are explained and asked for again. Runs one episode at a time.
    """

    name: str = field(default="human", init=False)
    uses_model: ClassVar[bool] = False
    interactive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._lines = Lines()

    async def run(self, episode: Episode) -> None:
        console, descriptor = Console(stderr=True), _stdin()
        console.print(episode.first_observation, markup=False, highlight=False)
        tools = ", ".join(escape(tool.name) for tool in episode.tools)
        console.print(f"[dim]Ctrl-D submits. Tools: {tools or 'the shell'}[/dim]")
        while not episode.done:
            console.print("[bold]»[/bold] ", end="")
            line = await self._lines.next(descriptor)
            if line is None:
                await episode.submit()
                return
            if not line.strip():
                continue
            try:
                observation = await episode.act(_action(line))
            except InputError as error:
                console.print(f"[red]{escape(str(error))}[/red]")
                continue
            console.print(observation.text, markup=False, highlight=False)


def _action(line: str) -> Action:
    if not line.lstrip().startswith("{"):
        return line
    try:
        call: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"a line that starts with {{ is a tool call in JSON: {error}") from error
    return call


class Lines:
    """Lines of a file descriptor, awaited without a thread, so that a deadline can pass."""

    def __init__(self) -> None:
        self._rest = b""

    async def next(self, descriptor: int) -> str | None:
        """A line without its end; ``None`` at the end of input."""
        while b"\n" not in self._rest:
            await _readable(descriptor)
            chunk = os.read(descriptor, 65536)
            if not chunk:
                last, self._rest = self._rest, b""
                return last.decode("utf-8", "replace") if last else None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace")


async def _readable(descriptor: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        return  # an ordinary file: always readable, and nothing the loop can watch
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _stdin() -> int:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError("agent 'human' needs a terminal; step an environment instead") from error
