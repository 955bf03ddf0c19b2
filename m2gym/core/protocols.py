"""The contracts six actors share: a person, a scaffold, a black-box program, trainers, verl."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from m2gym.core.task import PreparedTask, Task
from m2gym.core.tools import HostedTool, ToolSchema
from m2gym.core.trajectory import Completion, Trajectory
from m2gym.core.verdict import Stop, Verdict
from m2gym.core.workspace import Workspace

Action = str | dict[str, Any]
"""A shell command, or a tool call ``{"name": …, "arguments": {…}}``."""


@dataclass(frozen=True)
class Observation:
    """What an action gave. ``done`` is set when it (or a limit) ended the episode."""

    text: str
    reward: float = 0.0
    done: bool = False
    stop: Stop | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How an engine samples; ``None`` leaves the choice to the engine."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenOutput:
    """Generated ids with the logprob of the temperature-scaled full distribution."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    weight_versions: tuple[int, ...]
    stop_reason: str


@dataclass(frozen=True)
class ModelRequest:
    """One call of a model: messages in OpenAI's chat form, whatever dialect they came in.

    ``content`` is a string or a list of ``text`` and ``image_url`` blocks; an assistant's thinking
    stands in ``reasoning_content``. ``tool_choice`` is ``"auto"``, ``"none"``, ``"required"`` or
    the name of a tool. ``model`` is the name that the caller asked for, for the record. ``hosted``
    are tools that the model's provider is to run itself; a model that has none of them refuses.

    A session fills in the last two for its model: ``parent`` is the index of the completion that
    the messages extend, and the first ``known`` messages are that completion's prompt and answer.
    ``streamed`` is false where nobody looks at the pieces, so that an answer may come in one.
    ``constant``: the caller changes no message later, so that they may be kept as they are.
    """

    messages: Sequence[dict[str, Any]]
    tools: Sequence[ToolSchema] = ()
    sampling: Sampling = Sampling()
    tool_choice: str = "auto"
    model: str | None = None
    parent: int | None = None
    known: int = 0
    streamed: bool = field(default=True, compare=False)
    constant: bool = field(default=False, compare=False)
    hosted: Sequence[HostedTool] = ()


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a streamed tool call: ``id`` and ``name`` in its first, JSON text in each."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer; the last one carries the completion."""

    text: str = ""
    thinking: str = ""
    tool_call: ToolCallDelta | None = None
    completion: Completion | None = None


class Session(Protocol):
    """All model calls of one episode: whoever calls, they are recorded here."""

    id: str

    @property
    def completions(self) -> Sequence[Completion]: ...

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta]:
        """Call the episode's model; the completion is recorded before its last delta is given."""
        ...

    async def complete(self, request: ModelRequest) -> Completion:
        """`stream` drained."""
        ...

    def fork(self, id: str) -> Session:
        """A session that goes on from this one's record, independent of it."""
        ...


class Model(Protocol):
    """Messages → `Completion`."""

    def stream(self, request: ModelRequest, session: Session) -> AsyncIterator[Delta]: ...


class Engine(Protocol):
    """Token ids → token ids with logprobs."""

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, session_id: str
    ) -> TokenOutput: ...
    async def abort(self, session_id: str) -> None: ...
    async def pause(self) -> None: ...
    async def update_weights(self, version: int) -> None: ...
    async def resume(self) -> None: ...


class ChatFormat(Protocol):
    """Messages ↔ token ids. ``extend`` gives the new ids, or ``None`` when history changed."""

    def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[ToolSchema]
    ) -> list[int]: ...
    def parse(
        self, ids: Sequence[int], tools: Sequence[ToolSchema] | None = None
    ) -> dict[str, Any]: ...
    def extend(
        self, node: Sequence[int], messages: Sequence[dict[str, Any]]
    ) -> list[int] | None: ...


class Episode(Protocol):
    """One attempt at one task: what an environment, the driver and every scaffold hold.

    ``deadline`` is seconds since the epoch, ``None`` without a wall limit. The model session joins
    with the gateway; agents that call no model have none.
    """

    id: str
    prepared: PreparedTask
    workspace: Workspace
    deadline: float | None

    @property
    def task(self) -> Task: ...
    @property
    def tools(self) -> list[ToolSchema]: ...
    @property
    def done(self) -> bool: ...
    @property
    def first_observation(self) -> str: ...
    @property
    def session(self) -> Session | None: ...

    async def act(self, action: Action) -> Observation:
        """Do one action. Malformed ones raise `InputError` and leave the episode usable."""
        ...

    async def submit(self, stop: Stop = "submitted") -> Verdict:
        """End the episode and grade it once; later calls give the same verdict."""
        ...

    async def fork(self, n: int) -> Sequence[Episode]: ...
    async def close(self) -> None: ...
    def trajectory(self) -> Trajectory: ...


@runtime_checkable
class Scaffold(Protocol):
    """The program around the model: acts in an episode until it is satisfied."""

    name: str

    async def run(self, episode: Episode) -> None: ...


class Backend(Protocol):
    """Where models run."""

    def model(self, spec: str) -> Model: ...
