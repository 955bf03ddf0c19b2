"""Checkpoints: whole or not there.

A checkpoint is written beside its place, with a digest of every file, and renamed into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from m2gym.core.errors import InfraError

STATE, MANIFEST = "state.pt", "manifest.json"


class CheckpointCorruptError(InfraError):
    """A checkpoint's files are not those that were written."""


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write the checkpoint of ``step`` and delete all but the newest ``keep``."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"step-{step:06d}"
    half = folder / f".half-{step:06d}"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    with (half / STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    digest = {"step": step, STATE: _digest(half / STATE)}
    (half / MANIFEST).write_text(json.dumps(digest), "utf-8")
    shutil.rmtree(place, ignore_errors=True)
    half.rename(place)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:06d}")
    return place


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, rising."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(n[5:]) for n in names if re.fullmatch(r"step-\d{6}", n))


def load(folder: Path) -> dict[str, Any] | None:
    """The newest state; ``None`` where there is none.

    Raises:
        CheckpointCorruptError: its files are not what was written.
    """
    found = steps(folder)
    if not found:
        return None
    place = folder / f"step-{found[-1]:06d}"
    try:
        digest = json.loads((place / MANIFEST).read_text("utf-8"))[STATE]
        same = digest == _digest(place / STATE)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise CheckpointCorruptError(
            f"{place} is damaged; delete this folder to resume from the checkpoint before it"
        )
    state: dict[str, Any] = torch.load(place / STATE, map_location="cpu", weights_only=True)
    return state


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
