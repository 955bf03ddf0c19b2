"""A model that says what it was told to: for tests, demonstrations and agents' first runs.

A turn is picked by its position in the session's tree: the first for a prompt that extends nothing,
the second for one that extends an answer to the first, and so on. So an agent's retries, forks and
auxiliary calls do not get out of step. As a file (JSON or YAML):

    turns:
      - thinking: I look first.
        calls: [{name: bash, arguments: {command: ls}}]
      - {fault: {status: 429, retry_after: 1}, text: Done.}     # fails once, then says it
    asides:
      - {when: "(?i)write a title", text: A title}              # whatever the position
"""

from __future__ import annotations

import asyncio
import json
import re
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from m2gym.core.errors import InputError, ModelError, RateLimitError
from m2gym.core.protocols import Delta, ModelRequest, Session, ToolCallDelta
from m2gym.core.task import Frozen
from m2gym.core.trajectory import Completion, Usage
from m2gym.models.messages import Message, assistant, text_of

BYTES_A_TOKEN = 4
"""For the usage of a model without a tokenizer; the project's choice."""


class Fault(Frozen):
    """A failure before (or, after ``deltas`` pieces, within) an answer."""

    status: int = Field(500, description="HTTP status an upstream would have given")
    message: str = "scripted fault"
    retry_after: float | None = Field(None, description="seconds, for 429")
    deltas: int = Field(0, ge=0, description="pieces that come before it")

    def error(self) -> ModelError:
        """The exception it stands for."""
        if self.status == 429:
            return RateLimitError(self.message, retry_after=self.retry_after)
        cause = {401: "auth", 403: "auth", 400: "refused", 408: "timeout", 504: "timeout"}
        return ModelError(self.message, cause=cause.get(self.status, "server"), status=self.status)


class Call(Frozen):
    """A tool call; ``arguments`` as text is sent as it is, so it may be broken JSON.

    ``input`` makes it a free-form call.
    """

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    id: str = ""
    input: str | None = None


class Hosted(Frozen):
    """A call that the provider ran itself, and what it gave."""

    name: str
    input: dict[str, Any] = Field(default_factory=dict)
    output: Any = None
    id: str = ""


class Turn(Frozen):
    """One answer. ``fault`` (one or several) fails as many first tries of it."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    hosted: tuple[Hosted, ...] = Field((), description="calls of tools that the provider ran")
    fault: Fault | tuple[Fault, ...] = ()
    finish_reason: str = ""
    when: str = Field("", description="for asides: a pattern that the last message must contain")
    delay: float = Field(0.0, ge=0, description="seconds before each piece")
    cost_usd: float = 0.0

    @property
    def faults(self) -> tuple[Fault, ...]:
        return (self.fault,) if isinstance(self.fault, Fault) else self.fault

    def message(self, position: int) -> Message:
        """The answer; ids of calls that have none follow from the position."""
        said = assistant(self.text, thinking=self.thinking)
        calls = []
        for n, call in enumerate(self.calls):
            id = call.id or f"call_{position}_{n}"
            if call.input is not None:
                inner = {"name": call.name, "input": call.input}
                calls.append({"id": id, "type": "custom", "custom": inner})
                continue
            given = call.arguments
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            calls.append(
                {"id": id, "type": "function", "function": {"name": call.name, "arguments": text}}
            )
        if calls:
            said["tool_calls"] = calls
        if self.hosted:
            said["hosted"] = [
                {**held.model_dump(), "id": held.id or f"hosted_{position}_{n}"}
                for n, held in enumerate(self.hosted)
            ]
        return said


class Script(Frozen):
    """The file."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    asides: tuple[Turn, ...] = ()
    model: str = "scripted"


Answer = Callable[[ModelRequest], Turn]
"""A function in place of a list: the request (canonical messages) → what to say."""


class ScriptedModel:
    """Says the turns of a script; streams word by word."""

    def __init__(
        self,
        turns: Sequence[Turn | str] | Answer,
        *,
        asides: Sequence[Turn] = (),
        name: str = "scripted",
    ) -> None:
        self._answer = turns if callable(turns) else None
        given = () if callable(turns) else turns
        self.turns = tuple(Turn(text=t) if isinstance(t, str) else t for t in given)
        self.asides, self.name = tuple(asides), name
        self._failed: dict[tuple[str, int, str], int] = {}
        self._depths: weakref.WeakKeyDictionary[Session, list[int]] = weakref.WeakKeyDictionary()
        if self._answer is None and not self.turns:
            raise InputError("a script needs at least one turn")

    @classmethod
    def load(cls, path: str | Path) -> ScriptedModel:
        """From a JSON or YAML file; `InputError` names the wrong field."""
        try:
            script = Script.model_validate(yaml.safe_load(Path(path).read_text("utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"cannot read the script {path}: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise InputError(f"the script {path}: {place}: {first['msg']}") from None
        return cls(script.turns, asides=script.asides, name=script.model)

    async def stream(self, request: ModelRequest, session: Session) -> AsyncIterator[Delta]:
        """Say the turn of the request's position.

        Raises:
            InputError: the script has no such turn.
            ModelError: the turn's fault.
        """
        position = self._position(request, session)
        turn = self._turn(request, position)
        key = (session.id, position, turn.when)
        tries = self._failed.get(key, 0)
        fault = turn.faults[tries] if tries < len(turn.faults) else None
        message = turn.message(position)
        for n, delta in enumerate(pieces(message)):
            if fault is not None and n >= fault.deltas:
                break
            if turn.delay:
                await asyncio.sleep(turn.delay)
            yield delta
        if fault is not None:
            self._failed[key] = tries + 1
            raise fault.error()
        yield Delta(completion=self._completion(turn, message, request, session))

    def _position(self, request: ModelRequest, session: Session) -> int:
        """How many completions lie on the path that the request extends."""
        depths = self._depths.setdefault(session, [])
        for completion in session.completions[len(depths) :]:
            depths.append(1 if completion.parent is None else depths[completion.parent] + 1)
        return 0 if request.parent is None else depths[request.parent]

    def _turn(self, request: ModelRequest, position: int) -> Turn:
        if self._answer is not None:
            return self._answer(request)
        last = text_of(request.messages[-1])
        for turn in self.asides:
            if re.search(turn.when, last):
                return turn
        if position >= len(self.turns):
            raise InputError(
                f"the script has {len(self.turns)} turns and was asked for turn {position + 1}; "
                "add turns, or end the conversation"
            )
        return self.turns[position]

    def _completion(
        self, turn: Turn, message: Message, request: ModelRequest, session: Session
    ) -> Completion:
        held = 0
        if request.parent is not None:
            before = session.completions[request.parent].usage
            held = before.prompt_tokens + before.completion_tokens
        else:
            held = sum(estimate(tool.model_dump()) for tool in request.tools)
        fresh = request.messages[request.known :]
        return Completion(
            message=message,
            finish_reason=turn.finish_reason or ("tool_calls" if turn.calls else "stop"),
            model=self.name,
            usage=Usage(
                prompt_tokens=held + sum(map(estimate, fresh)),
                completion_tokens=estimate(message),
                cost_usd=turn.cost_usd,
            ),
        )


def estimate(value: Message) -> int:
    """Tokens of a message or a tool, by its size."""
    return len(json.dumps(value, ensure_ascii=False).encode()) // BYTES_A_TOKEN + 1


def pieces(message: Message) -> Iterator[Delta]:
    """A message as it would be streamed: thinking, text, then each call, word by word."""
    for part in words(message.get("reasoning_content", "")):
        yield Delta(thinking=part)
    for part in words(text_of(message)):
        yield Delta(text=part)
    for index, call in enumerate(message.get("tool_calls", ())):
        if call["type"] == "custom":
            name, said = call["custom"]["name"], call["custom"]["input"]
        else:
            name, said = call["function"]["name"], call["function"]["arguments"]
        yield Delta(tool_call=ToolCallDelta(index, call["id"], name))
        for part in words(said):
            yield Delta(tool_call=ToolCallDelta(index, arguments=part))


def words(text: str) -> list[str]:
    """The text in pieces that end after white space; joined they are the text.

    >>> words("a b  c")
    ['a ', 'b  ', 'c']
    """
    return re.findall(r"\s*\S+\s*|\s+", text)
