"""What a scaffold program has of m2gym: its episode, over a pipe. Standard library only.

```python
from m2gym_agent import connect

episode = connect()
answer = episode.complete([{"role": "user", "content": episode.first_observation}])
episode.act(answer.message["content"])
episode.submit()
```

Each call is a line of JSON on the program's first output, its answer a line on its input. What the
program prints goes to its error stream.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

Message = dict[str, Any]


class Ended(Exception):
    """The episode, or the model's budget, has ended: there is nothing left to do."""


class Refused(Exception):
    """What was asked for cannot be done; the message says what was expected."""


@dataclass(frozen=True)
class Answer:
    """A model's answer: a message in OpenAI's chat form, why it ended, and tokens used."""

    message: Message
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Observation:
    """What an action gave; ``done`` when the episode is over."""

    text: str
    done: bool


class Episode:
    """One attempt at one task."""

    def __init__(self, asking: BinaryIO, hearing: BinaryIO) -> None:
        self._asking, self._hearing = asking, hearing
        self._sent: list[Message] = []
        hello = self._hear()
        self.id: str = hello["id"]
        self.instruction: str = hello["instruction"]
        self.first_observation: str = hello["first_observation"]
        self.workdir: str = hello["workdir"]
        self.deadline: float | None = hello["deadline"]
        self.tools: list[dict[str, Any]] = hello["tools"]
        self.settings: dict[str, Any] = hello["settings"]

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        tool_choice: str = "auto",
        **sampling: Any,
    ) -> Answer:
        """Ask the model. ``tools`` and messages have OpenAI's chat form."""
        same = 0
        for old, new in zip(self._sent, messages, strict=False):
            if old != new:
                break
            same += 1
        said = self._ask(
            "complete",
            keep=same,
            messages=list(messages[same:]),
            tools=list(tools),
            tool_choice=tool_choice,
            sampling=sampling,
        )
        self._sent = [dict(message) for message in messages]
        return Answer(**said)

    def act(self, action: str | Mapping[str, Any]) -> Observation:
        """Do a shell command, or a tool call ``{"name": …, "arguments": {…}}``."""
        return Observation(**self._ask("act", action=action))

    def submit(self) -> None:
        """End the episode and let it be judged."""
        self._ask("submit")

    def note(self, name: str, arguments: Mapping[str, Any], text: str = "") -> None:
        """Put something that the scaffold did, such as a change of its context, on record."""
        self._ask("note", action={"name": name, "arguments": dict(arguments)}, text=text)

    def _ask(self, do: str, **what: Any) -> dict[str, Any]:
        line = json.dumps({"do": do, **what}, ensure_ascii=False)
        self._asking.write(line.encode("utf-8", "surrogatepass") + b"\n")
        self._asking.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        line = self._hearing.readline()
        if not line:
            raise Ended("m2gym closed the pipe")
        said: dict[str, Any] = json.loads(line)
        if "ended" in said:
            raise Ended(said["ended"])
        if "refused" in said:
            raise Refused(said["refused"])
        return said


def connect() -> Episode:
    """The episode this program was started for."""
    asking = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return Episode(asking, sys.stdin.buffer)
