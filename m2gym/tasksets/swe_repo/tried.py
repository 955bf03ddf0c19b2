"""What was tried to make ``swe-repo``, as it lies beside the recipes.

- ``funnel.json``: a search for injected bugs → how many places were tried, and why they were
  dropped.
- ``pairs.json``: a row a pair of releases: its parts, and why some are not shipped, or why there
  are none.
- ``dropped.json``: a task that was shipped, or would have been → why a verification took it out.

`m2gym.tasksets.quality.funnel` adds them up.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "swe_repo"
"""The folder of the recipes that ship with m2gym, where they are made."""
DROPPED = "dropped.json"

Row = dict[str, Any]


def read_funnel(out: Path) -> dict[str, Any]:
    """Source → what came of it."""
    path = out / "funnel.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def read_rows(folder: Path) -> list[Row]:
    """The rows of ``pairs.json``; none where there is no such file."""
    path = folder / "pairs.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def dropped(folder: Path = DATA) -> dict[str, list[str]]:
    """Task id → kind and reason, of tasks that a verification took out."""
    path = folder / DROPPED
    found: dict[str, list[str]] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    )
    return found


def of_step(task: str, package: str, new: str) -> bool:
    """Whether an id is one of a step to the release ``new``: its name, or that and a number.

    A letter is one fault of a part that holds several (`m2gym.tasksets.version_diffs.apart`).
    """
    return re.fullmatch(re.escape(f"{package}-{new}") + r"(-\d+)?[a-z]?", task) is not None
