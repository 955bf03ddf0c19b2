"""The two halves of a dialect: a request read into a `Call`, and an `Encoder` for its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from m2gym.core.protocols import Delta, ModelRequest, ToolCallDelta
from m2gym.core.tools import HostedTool
from m2gym.core.trajectory import Completion
from m2gym.gateway.fault import Fault
from m2gym.gateway.fields import Object


@dataclass(frozen=True)
class Call:
    """A request in the canonical form, and what its answer must know of it.

    ``model`` is the name asked for, which the answer repeats. ``custom`` and ``namespaces`` say
    which of the model's calls go back in another form. ``hosted`` are the provider-hosted tools
    that it lists. ``previous`` is the id of the answer it goes on from, ``store`` whether its own
    may be gone on from; the first ``instructions`` messages are not carried over then.
    """

    request: ModelRequest
    model: str
    stream: bool
    custom: frozenset[str] = frozenset()
    namespaces: dict[str, tuple[str, str]] = field(default_factory=dict)
    hosted: tuple[HostedTool, ...] = ()
    usage_asked: bool = False
    thinking_asked: bool = True
    echo: Object = field(default_factory=dict)
    previous: str = ""
    instructions: int = 0
    store: bool = False


class Encoder(Protocol):
    """A streamed answer in a dialect; every method gives the bytes to send now."""

    ping: bytes
    """Something a waiting client ignores; empty where nothing is ignored."""

    def begin(self) -> bytes: ...
    def delta(self, delta: Delta) -> bytes: ...
    def end(self, completion: Completion) -> bytes: ...
    def fail(self, fault: Fault) -> bytes: ...


class Dialect(Protocol):
    """One provider's protocol."""

    name: str

    def parse(self, body: dict[str, Any], model: str, stream: bool) -> Call: ...
    def answer(self, call: Call, completion: Completion, id: str, created: int) -> Object: ...
    def encoder(self, call: Call, id: str, created: int) -> Encoder: ...
    def error(self, fault: Fault) -> Object: ...
    def counted(self, tokens: int) -> Object: ...


def whole(completion: Completion) -> list[Delta]:
    """A completion as deltas, for a model that gave it in one piece."""
    message = completion.message
    deltas = []
    if message.get("reasoning_content"):
        deltas.append(Delta(thinking=message["reasoning_content"]))
    if message.get("content"):
        deltas.append(Delta(text=text_of(message)))
    for index, call in enumerate(message.get("tool_calls") or ()):
        if call.get("type") == "custom":
            name, arguments = call["custom"]["name"], call["custom"]["input"]
        else:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
        deltas.append(Delta(tool_call=ToolCallDelta(index, call["id"], name, arguments)))
    return deltas


def text_of(message: Object) -> str:
    """The text of a recorded assistant message."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content)
