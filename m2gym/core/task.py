"""What to do, the workspace it starts from, how it is judged, and its limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, field_validator

Split = Literal["train", "test"]
Network = Literal["none", "public", "allowlist"]
"""``allowlist``: only the named hosts, through a proxy of ours; nothing else leaves the box."""
Isolation = Literal["fresh", "shared"]
"""Where a task is judged: in a fresh box, or, where its format demands it, in the agent's own."""


class Frozen(BaseModel):
    """A frozen pydantic model that refuses unknown fields by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Frozen):
    """Bounds of one episode and of its box. ``None`` means no bound.

    The defaults are the project's choice.
    """

    steps: int | None = Field(100, ge=1, description="actions an episode may take")
    seconds: float | None = Field(1800.0, gt=0, description="wall time of the agent, seconds")
    exec_seconds: float = Field(120.0, gt=0, description="wall time of one command, seconds")
    grade_seconds: float = Field(600.0, gt=0, description="wall time of grading, seconds")
    memory_mb: int | None = Field(2048, ge=16, description="memory of the whole box, MiB")
    disk_mb: int | None = Field(2048, ge=1, description="bytes written in the box, MiB")
    processes: int | None = Field(256, ge=4, description="processes and threads alive in the box")
    cpu_seconds: float | None = Field(
        None,
        gt=0,
        description="CPU time of one process and, where a control group counts it, of the whole "
        "box until its processes are killed for it, seconds",
    )
    cpus: float | None = Field(None, gt=0, description="share of processors, in cores")
    output_bytes: int = Field(10 * 2**20, ge=1024, description="bytes kept of each stream")
    total_output_chars: int | None = Field(
        2_000_000, ge=1, description="characters of observations an episode may take in all"
    )
    observation_chars: int = Field(16_000, ge=200, description="characters of an observation")


class Mount(Frozen):
    """A host file or folder shown read-only in the box."""

    source: Path
    target: str


class WorkspaceSpec(Frozen):
    """From what a box is made. The same spec always makes the same pristine box."""

    root: Path | None = Field(None, description="folder whose files the work folder starts with")
    image: str | None = Field(None, description="container image, for workspaces that use one")
    build: Path | None = Field(
        None, description="folder with a Dockerfile, for workspaces that build images"
    )
    needs_image: bool = Field(
        True, description="whether image or build can only be honoured by a workspace with images"
    )
    workdir: str = Field("/workspace", description="where the files lie in the box")
    mounts: tuple[Mount, ...] = ()
    links: dict[str, str] = Field(
        default_factory=dict, description="symbolic links at the box's root: /name → target"
    )
    env: dict[str, str] = Field(default_factory=dict, description="the whole extra environment")
    network: Network = "none"
    allowed_hosts: tuple[str, ...] = Field((), description="what an allowlist lets pass")
    user: Literal["agent", "root"] = Field(
        "agent", description="who runs the commands that name nobody"
    )
    limits: Limits = Limits()

    @field_validator("workdir")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or value == "/":
            raise ValueError(f"workdir must be an absolute folder below /, got {value!r}")
        return value


class RewardSpec(Frozen):
    """A registered reward function, its weight in the sum, and its parameters."""

    name: str
    weight: float = 1.0
    parameters: dict[str, Any] = Field(default_factory=dict)


_LATER = ("allowed_hosts", "isolation")
"""Fields that came later: at their default they leave a task's hash as it was before them."""


class Task(Frozen):
    """One thing to do. Frozen data; big files stay with the taskset that prepares it."""

    id: str = Field(min_length=1)
    instruction: str
    files: str | dict[str, str] | None = Field(
        None, description="a folder, or path → text, that the work folder starts with"
    )
    rewards: tuple[RewardSpec, ...] = ()
    artifacts: tuple[str, ...] = Field(
        (".",), description="paths graded, relative to workdir; absolute ones lie outside of it"
    )
    limits: Limits = Limits()
    network: Network = "none"
    allowed_hosts: tuple[str, ...] = ()
    isolation: Isolation = "fresh"
    env: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("artifacts")
    @classmethod
    def _inside(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if ".." in path.split("/") or (path and not path.strip("/")):
                raise ValueError(f"an artifact is a path without '..', and not '/', got {path!r}")
        return paths

    def content_hash(self) -> str:
        """SHA-256 over the task's data (files of a folder are not read)."""
        plain = {n for n in _LATER if getattr(self, n) == type(self).model_fields[n].default}
        data = json.dumps(self.model_dump(mode="json", exclude=plain), sort_keys=True)
        return hashlib.sha256(data.encode()).hexdigest()


@dataclass(frozen=True)
class Reference:
    """The known good change: files to write (``None`` deletes) and then a shell script to run."""

    files: Mapping[str, bytes | None] = field(default_factory=dict)
    script: str | None = None


@dataclass(frozen=True)
class PreparedTask:
    """A task with its files at hand on this machine.

    ``hidden`` is laid over the work folder of the *grading* box only, read from the host; nothing
    of it, and nothing of ``reference``, is ever visible in the agent's box. ``setup`` is run there
    once, as root, before the agent comes. ``grading`` is what the grading box is made from, where
    that differs. A task with ``stages`` is done stage by stage in one box; the rest of it is then
    the first stage's.
    """

    task: Task
    workspace: WorkspaceSpec
    hidden: Path | None = None
    reference: Reference | None = None
    setup: str | None = None
    grading: WorkspaceSpec | None = None
    stages: tuple[Stage, ...] = ()
    strategy: Literal["mean", "final"] = "mean"
    """Of the stages' rewards: their mean, or the last one's."""


@dataclass(frozen=True)
class Stage:
    """One stage of a task: what to do now, and how that is judged.

    Attributes:
        prepared: its instruction, limits, hidden files, reward and reference.
        files: laid over the agent's work folder when it begins.
        setup: then run there, as the agent.
        least: numbers of its verdict (``reward``, or one that its verifier names) that must be
            reached, or the stages after it are not begun.
    """

    name: str
    prepared: PreparedTask
    files: Path | None = None
    setup: str | None = None
    least: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Taskset(Protocol):
    """A named, ordered source of tasks with ``train`` and ``test`` splits."""

    name: str

    def ids(self, split: Split) -> Sequence[str]:
        """Ids of one split, in a fixed order."""
        ...

    def task(self, task_id: str) -> Task:
        """The task; `UnknownIdError` when there is none."""
        ...

    def prepare(self, task: Task) -> PreparedTask:
        """Bring the task's files onto this machine (cached; may block, may raise `InfraError`)."""
        ...


def iter_tasks(taskset: Taskset, split: Split) -> Iterator[Task]:
    """Every task of a split, in order."""
    for task_id in taskset.ids(split):
        yield taskset.task(task_id)


def no_task_in(what: str, taskset: Taskset, split: Split) -> str:
    """The words of the error that ``what`` has no task in ``split``, and which split has some."""
    other: Split = "train" if split == "test" else "test"
    found = len(taskset.ids(other))
    rest = f"; there are {found} in {other!r}: ask for split={other!r}" if found else ""
    return f"{what} has no task in its {split!r} split{rest}"
