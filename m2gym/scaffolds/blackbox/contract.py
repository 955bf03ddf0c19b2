"""The contract of a black-box agent: ``install`` and ``launch``.

```
install ──► mounts, read-only ──► the episode's box ──► launch ──► the program runs ──► its files
                                        │ 127.0.0.1:PORT                │                are graded
                              gateway ──┘ on a socket the box handed out ┴─► the session records
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from m2gym.core.errors import InputError
from m2gym.core.protocols import Episode
from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.install import agent_cache
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent

Dialect = Literal["chat", "responses", "messages", "gemini"]
"""OpenAI chat completions, OpenAI responses, Anthropic messages, Google generateContent."""


@dataclass(frozen=True)
class Endpoint:
    """Where the agent, inside its box, finds its model.

    ``base_url`` has no version at its end: OpenAI's clients want ``base_url + "/v1"``. ``key`` is
    what must stand where a client insists on an API key. ``model`` is the name to ask for.
    """

    base_url: str
    key: str
    model: str


@dataclass(frozen=True)
class Job:
    """What the agent is to do, and where the files and its fresh home lie in its box."""

    instruction: str
    workdir: str
    home: str


@dataclass(frozen=True)
class Launch:
    """How the program is started: arguments, variables beside the box's own, and files.

    Paths of ``files`` are absolute or relative to the agent's fresh home (``~/…``).
    """

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Flags:
    """What is known of an agent.

    Attributes:
        dialects: protocols it speaks, the default first.
        thinking_back: it sends a model's thinking back in its next request.
        side_calls: it also asks for titles, commit messages and the like.
        prefix_extending: each request extends the one before.
        edits: by tools, or by blocks in its text.
    """

    dialects: tuple[Dialect, ...]
    thinking_back: bool = False
    side_calls: bool = False
    prefix_extending: bool = True
    edits: Literal["tools", "text"] = "tools"


@dataclass
class BlackBox:
    """Base of black-box agents; a subclass gives `install` and `launch`.

    Args:
        dialect: the protocol it speaks; empty: its default.
        model_name: the name of the model that it is told; empty: the model's own.
        arguments: more arguments for its command line.
    """

    dialect: str = ""
    model_name: str = ""
    arguments: tuple[str, ...] = ()
    name: str = field(default="blackbox", init=False)
    version: str = field(default="", init=False)

    flags: ClassVar[Flags] = Flags(("chat",))
    unseen: ClassVar[bool] = True
    """Its actions are seen only as answers of its model: each counts as a step."""

    @property
    def uses_model(self) -> bool:
        """Whether it calls a model."""
        return True

    @property
    def asks_model(self) -> bool:
        """Whether a run without a call of the model means that it never ran."""
        return True

    def __post_init__(self) -> None:
        self.dialect = self.dialect or self.flags.dialects[0]
        if self.dialect not in self.flags.dialects:
            raise InputError(
                f"{self.name} speaks {', '.join(self.flags.dialects)}; got {self.dialect!r}"
            )

    @classmethod
    def from_argument(cls, argument: str) -> BlackBox:
        """From the dialect: ``--agent opencode:messages``."""
        return cls(dialect=argument)

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        """The program's files for the box, fetched on first use.

        Raises:
            CapabilityError, DownloadError: it cannot be installed here.
        """
        raise InputError(f"{type(self).__name__} has no install")

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        """How it is started."""
        raise InputError(f"{type(self).__name__} has no launch")

    def content_hash(self) -> str:
        """SHA-256 of what decides how it acts: release, settings, the way it is started."""
        shown = self.launch(Endpoint("URL", "KEY", "MODEL"), Job("TASK", "/work", "/home"))
        parts: Sequence[object] = (self.name, self.version, self.dialect, list(shown.command))
        return key_of(*parts, dict(shown.env), dict(shown.files))

    async def run(self, episode: Episode) -> None:
        """Launch it in the episode's box and wait for its end; see `running.run_agent`."""
        from m2gym.scaffolds.blackbox.running import run_agent

        await run_agent(self, episode)


def mounts_of(
    scaffold: object, cache: Cache | None = None, progress: Progress = silent
) -> tuple[Mount, ...]:
    """What a scaffold needs in its episode's box; nothing for most."""
    if isinstance(scaffold, BlackBox):
        return scaffold.install(cache or agent_cache(), progress)
    return ()
