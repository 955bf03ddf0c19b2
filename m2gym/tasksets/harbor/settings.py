"""``task.toml`` of Harbor task folders (schemas 1.0 to 1.4), read strictly: see `table`.

Where Harbor's word and the project's differ, the project's stands: a verifier whose
``environment_mode`` is not given is judged in a fresh box (Harbor would take the agent's), and an
agent whose ``user`` is not given is no root.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from m2gym.core.errors import InputError
from m2gym.core.task import Limits
from m2gym.tasksets.harbor.table import Policy, Table

VERSIONS = ("1.0", "1.1", "1.2", "1.3", "1.4")
Mode = Literal["shared", "separate"]
Strategy = Literal["mean", "final"]


@dataclass(frozen=True)
class Box:
    """An ``[environment]`` or ``[verifier.environment]``; ``policy`` is ``None`` if not given."""

    image: str | None = None
    workdir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    policy: Policy | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None


@dataclass(frozen=True)
class Worker:
    """An ``[agent]``: seconds of wall time, user, and a network of its own."""

    seconds: float | None = None
    user: Literal["agent", "root"] | None = None
    policy: Policy | None = None


@dataclass(frozen=True)
class Judge:
    """A ``[verifier]``; ``box`` where it has an environment of its own."""

    seconds: float | None = None
    user: Literal["agent", "root"] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    mode: Mode | None = None
    box: Box | None = None
    policy: Policy | None = None


@dataclass(frozen=True)
class Step:
    """One of ``[[steps]]``; ``least`` is its ``min_reward`` by name of the number."""

    name: str
    agent: Worker
    verifier: Judge
    least: Mapping[str, float]
    artifacts: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What a ``task.toml`` says, in the project's words."""

    limits: Limits
    environment: Box
    agent: Worker
    verifier: Judge
    solution_env: Mapping[str, str]
    metadata: Mapping[str, Any]
    artifacts: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    strategy: Strategy = "mean"

    @property
    def network(self) -> Policy:
        """What the agent may reach; without a word of the task everything, as in Harbor."""
        return self.agent.policy or self.environment.policy or Policy()

    def judge_network(self, judge: Judge) -> Policy:
        """What a verifier may reach: its own word, its environment's, or the task's."""
        own = judge.box or self.verifier.box
        if own is not None:
            return judge.policy or self.verifier.policy or own.policy or Policy()
        return judge.policy or self.verifier.policy or self.environment.policy or Policy()


def read_settings(path: Path) -> Settings:
    """Read and check a ``task.toml``.

    Raises:
        InputError: it is no TOML, or a field is unknown, unsupported or wrong; the message has the
            file and the field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    root = Table(path, "", data, "")
    version = str(data.get("schema_version", data.get("version", "1.0")))
    if version not in VERSIONS:
        raise InputError(f"{path}: schema_version is one of {', '.join(VERSIONS)}, got {version!r}")
    environment = _box(root.table("environment"))
    agent, verifier = _worker(root.table("agent")), _judge(root.table("verifier"))
    steps = tuple(_step(table) for table in root.tables("steps", "step"))
    if len({step.name.casefold() for step in steps}) < len(steps):
        raise root.error("steps", "has two steps of one name")
    for step in steps:
        if step.agent.policy not in (None, agent.policy or environment.policy or Policy()):
            raise InputError(f"{path}: step {step.name!r} has a network of its own: not supported")
        if step.agent.user not in (None, agent.user):
            raise InputError(f"{path}: step {step.name!r} has a user of its own: not supported")
    strategy = root.choice("multi_step_reward_strategy", "mean", "final") or "mean"
    return Settings(
        limits=_limits(path, environment, agent, verifier),
        environment=environment,
        agent=agent,
        verifier=verifier,
        solution_env=root.table("solution").env(),
        metadata=_metadata(root),
        artifacts=_artifacts(root),
        steps=steps,
        strategy=cast(Strategy, strategy),
    )


def _box(table: Table) -> Box:
    if table.data.get("os") not in (None, "linux"):
        raise table.error("os", "is not supported: only linux")
    workdir = table.data.get("workdir")
    if workdir is not None and (not isinstance(workdir, str) or not workdir.startswith("/")):
        raise InputError(f"{table.where} workdir is an absolute folder")
    return Box(
        image=table.text("docker_image"),
        workdir=workdir,
        env=table.env(),
        policy=table.policy(),
        memory_mb=table.mib("memory_mb", "memory"),
        disk_mb=table.mib("storage_mb", "storage"),
    )


def _worker(table: Table) -> Worker:
    return Worker(table.number("timeout_sec"), table.user(), table.policy())


def _judge(table: Table) -> Judge:
    box = _box(table.table("environment")) if table.data.get("environment") is not None else None
    mode = table.choice("environment_mode", "shared", "separate")
    if mode == "shared" and box is not None:
        raise table.error("environment_mode", "has no environment of its own")
    return Judge(
        seconds=table.number("timeout_sec"),
        user=table.user(),
        env=table.env(),
        mode=cast("Mode | None", mode or ("separate" if box else None)),
        box=box,
        policy=table.policy(),
    )


def _step(table: Table) -> Step:
    name = table.text("name") or ""
    if not name.strip() or name in (".", "..") or set(name) & set('<>:"/\\|?*\0'):
        raise table.error("name", "is no name of a folder")
    inside = Table(table.path, f"steps.{name}", table.data, "step")
    least = table.data.get("min_reward")
    if least is None:
        least = {}
    elif isinstance(least, int | float) and not isinstance(least, bool):
        least = {"reward": least}
    if not isinstance(least, Mapping) or not all(
        isinstance(v, int | float) for v in least.values()
    ):
        raise inside.error("min_reward", "is a number or a table of numbers")
    return Step(
        name,
        _worker(inside.table("agent")),
        _judge(inside.table("verifier")),
        {str(key): float(value) for key, value in least.items()},
        _artifacts(inside),
    )


def _artifacts(table: Table) -> tuple[str, ...]:
    found = table.data.get("artifacts") or []
    if not isinstance(found, list):
        raise table.error("artifacts", "is a list of paths")
    sources = []
    for number, entry in enumerate(found, 1):
        if not isinstance(entry, str):
            named = f"artifacts {number}" if not table.name else f"{table.name}.artifacts {number}"
            entry = Table(table.path, named, entry, "artifact").text("source") or ""
        if not entry.strip("/") or ".." in entry.split("/"):
            raise table.error("artifacts", "holds paths without '..', and not '/'")
        sources.append(entry)
    return tuple(sources)


def _limits(path: Path, environment: Box, agent: Worker, verifier: Judge) -> Limits:
    values = {
        "seconds": agent.seconds,
        "grade_seconds": verifier.seconds,
        "memory_mb": environment.memory_mb,
        "disk_mb": environment.disk_mb,
    }
    try:
        return Limits.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {first['loc'][0]}: {first['msg']}") from error


def _metadata(root: Table) -> dict[str, Any]:
    metadata = dict(root.table("metadata").data)
    if metadata.get("split") not in (None, "train", "test"):
        raise InputError(
            f"{root.path}: [metadata] split is train or test, got {metadata['split']!r}"
        )
    task, environment = root.table("task"), root.table("environment")
    for key in ("name", "description", "keywords"):
        if key in task.data:
            metadata.setdefault(key, task.data[key])
    if "cpus" in environment.data:
        metadata.setdefault("cpus", environment.data["cpus"])
    return metadata
