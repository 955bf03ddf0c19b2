"""Where the results of verification lie: ``verified.json``, one task a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from m2gym.tasksets.quality.grader import Verified

STATE = "verified.json"


def read_state(folder: Path) -> dict[str, Verified]:
    """Task id → what its last verification showed."""
    path = folder / STATE
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {name: Verified.model_validate(row) for name, row in rows.items()}


def save_state(state: Mapping[str, Verified], folder: Path) -> None:
    """Write the results, one a line."""
    lines = [
        f"{json.dumps(name)}: {row.model_dump_json(exclude_defaults=True)}"
        for name, row in sorted(state.items())
    ]
    write(folder / STATE, "{\n" + ",\n".join(lines) + "\n}\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
