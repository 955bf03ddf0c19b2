"""``run.json``: what was asked for, of which tasks, with which versions, on what machine."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from m2gym.core.task import Frozen, Split
from m2gym.core.trajectory import SCHEMA_VERSION
from m2gym.rollout.machine import machine

PACKAGES = ("m2gym", "gymnasium", "numpy", "pydantic")


class RunConfig(Frozen):
    """The resolved configuration of an evaluation; two runs with the same one are comparable."""

    env: str = Field(description="environment id")
    agent: str = Field(description="the agent as it was named")
    scaffold: dict[str, Any] = Field(
        default_factory=dict, description="the scaffold's name, class and settings"
    )
    model: str | None = Field(None, description="the model the scaffold calls")
    budget: dict[str, float | None] = Field(
        default_factory=dict, description="what an episode's calls of the model may use"
    )
    limits: dict[str, float | None] = Field(
        default_factory=dict, description="bounds of an episode in the place of the task's own"
    )
    split: Split = "test"
    tasks: tuple[str, ...] = Field((), description="ids of the tasks, in their order")
    attempts: int = Field(1, ge=1, description="episodes a task")
    workspace: str = "auto"
    seed: int = Field(0, description="episode seeds follow from it, the task and the attempt")


class RunInfo(Frozen):
    """The whole file."""

    schema_version: int = SCHEMA_VERSION
    config: RunConfig
    task_hashes: dict[str, str] = Field(description="task id → SHA-256 of its content")
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(
        default_factory=dict, description="system, cpu, cpus, memory_mb; gpus where there are any"
    )
    started: str = Field("", description="ISO 8601, UTC")


def new_info(config: RunConfig, task_hashes: dict[str, str]) -> RunInfo:
    """The information of a run that starts now, here."""
    return RunInfo(
        config=config,
        task_hashes=task_hashes,
        versions={"python": platform.python_version(), **_versions()},
        machine=machine(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def differences(old: RunInfo, new: RunInfo) -> list[str]:
    """What a resume would change, one line each; versions and machine may differ."""
    before, after = old.config.model_dump(), new.config.model_dump()
    lines = [
        f"{key}: {before[key]!r} → {after[key]!r}" for key in before if before[key] != after[key]
    ]
    changed = [
        task
        for task, digest in new.task_hashes.items()
        if old.task_hashes.get(task, digest) != digest
    ]
    if changed:
        lines.append(f"content of tasks: {', '.join(changed[:8])}{' …' if changed[8:] else ''}")
    return lines


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
