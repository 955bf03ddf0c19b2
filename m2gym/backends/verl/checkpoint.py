"""What is ours beside verl's checkpoints, which hold weights, optimiser and the place in the order.

::

    RUN/verl/latest_checkpointed_iteration.txt   written last: the newest whole one
    RUN/verl/global_step_N/{actor, data.pt}      verl's
    RUN/verl/global_step_N/m2gym.json            ours
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = "verl"
"""Of the checkpoints, in a run's."""

NAME, LATEST = "m2gym.json", "latest_checkpointed_iteration.txt"


def checkpointed(out: Path) -> int:
    """The last step whose checkpoint is whole; 0 where there is none."""
    path = out / FOLDER / LATEST
    return int(path.read_text("utf-8")) if path.exists() else 0


def save_own(out: Path, step: int, state: dict[str, Any]) -> None:
    """Write ``state`` into the folder of a step's checkpoint."""
    place = out / FOLDER / f"global_step_{step}"
    place.mkdir(parents=True, exist_ok=True)
    (place / NAME).write_text(json.dumps(state), "utf-8")


def load_own(out: Path, step: int) -> dict[str, Any]:
    """What `save_own` wrote."""
    path = out / FOLDER / f"global_step_{step}" / NAME
    state: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return state
