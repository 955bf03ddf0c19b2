"""One grading under way: what reward functions may look at, and its clock."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2gym.core.artifacts import Artifacts
from m2gym.core.task import PreparedTask
from m2gym.core.workspace import Workspace


@dataclass
class Grading:
    """A finished episode's files in a fresh box. ``links`` are the tree's symbolic links."""

    prepared: PreparedTask
    workspace: Workspace
    artifacts: Artifacts
    trajectory: Any
    seed: int
    links: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, Path] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    seconds_tests: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def budget(self) -> float:
        """Seconds left of the task's time for grading."""
        limit = self.prepared.task.limits.grade_seconds
        return limit - (time.monotonic() - self.started)

    def declared(self, path: str) -> bool:
        """Whether a path lies in the declared artifacts, so that the agent's file replaces it."""
        return any(
            part in (".", "./", path) or path.startswith(part.rstrip("/") + "/")
            for part in self.prepared.task.artifacts
        )


def tree(root: Path | None) -> dict[str, Path]:
    """Relative path → file, of every file below a folder but ``.git`` and linked folders."""
    if root is None:
        return {}
    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                found[path.relative_to(root).as_posix()] = path
    return found
