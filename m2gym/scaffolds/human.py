"""A person at a prompt."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.console import Console
from rich.markup import escape

from m2gym.core.errors import InputError
from m2gym.core.protocols import Action, Episode


@dataclass
class Human:
    """Shows observations and asks for actions; an empty input's end (Ctrl-D) submits.

    A line is a shell command; one that starts with ``{`` is a tool call in JSON. Malformed actions
    are explained and asked for again. Runs one episode at a time.
    """

    name: str = field(default="human", init=False)
    interactive: ClassVar[bool] = True

    async def run(self, episode: Episode) -> None:
        console = Console(stderr=True)
        console.print(episode.first_observation, markup=False, highlight=False)
        tools = ", ".join(escape(tool.name) for tool in episode.tools)
        console.print(f"[dim]Ctrl-D submits. Tools: {tools or 'the shell'}[/dim]")
        while not episode.done:
            console.print("[bold]»[/bold] ", end="")
            line = await _ask(input)
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


async def _ask(read: Callable[[], str]) -> str | None:
    """A line, ``None`` at the end of input. The thread is a daemon: a deadline need not wait."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str | None] = loop.create_future()

    def put(line: str | None) -> None:
        if not answer.done():
            answer.set_result(line)

    def wait() -> None:
        try:
            line: str | None = read()
        except EOFError:
            line = None
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, line)

    threading.Thread(target=wait, name="m2gym-prompt", daemon=True).start()
    return await answer
