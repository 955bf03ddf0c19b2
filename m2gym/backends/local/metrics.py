"""What is logged at each step, and what in it is a reason to look."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

STUCK_STEPS = 5
"""Steps without any difference of rewards before that is named; this and the limits below are the
project's choice."""
EQUAL_TIMES, MASKED_SHARE = 3, 0.25
"""Times running that a task's group is equal, and share of masked episodes, that are named."""
LOW_ENTROPY, HIGH_RATIO, LONGER, DIFFERENCE = 0.02, 20.0, 2.0, 0.1


class MetricsFile:
    """One JSON object a step in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Row]:
        """What is on file; a last line cut off by a crash is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def keep(self, step: int) -> list[Row]:
        """Drop rows after ``step``: they are computed again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        half = self.path.with_suffix(".half")
        half.write_text("".join(_line(row) for row in kept), "utf-8")
        half.replace(self.path)
        return kept

    def append(self, row: Row) -> None:
        """Add a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))


def _line(row: Row) -> str:
    plain = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(plain) + "\n"


class EqualTasks:
    """Counts, for each task, how often running its group's rewards did not differ.

    >>> seen = EqualTasks()
    >>> [seen.add("a", rewards) for rewards in ([0, 0], [0, 0], [0, 0], [0, 1])]
    [None, None, (0.0, 3), None]
    """

    def __init__(self) -> None:
        self.times: dict[str, int] = {}

    def add(self, task: str, rewards: Sequence[float]) -> tuple[float, int] | None:
        """Mean reward and count, when it is time to name the task."""
        if any(r != rewards[0] for r in rewards):
            self.times.pop(task, None)
            return None
        times = self.times[task] = self.times.get(task, 0) + 1
        return (float(rewards[0]), times) if times % EQUAL_TIMES == 0 else None


def _equal(task: str, mean: float, times: int) -> str:
    how = "it always fails" if mean <= 0 else f"always {mean:g}"
    return (
        f"task {task!r}: all attempts were equal {times} times running ({how}); it teaches "
        "nothing; leave it out, or look at one of its trajectories"
    )


def anomalies(row: Row, before: Sequence[Row]) -> list[str]:
    """What is wrong in a step, each with what to look at."""
    found = []
    norm = row.get("grad_norm")
    if norm is None or not math.isfinite(norm):
        found.append("gradient not finite: nothing was updated; look at lr, rewards and dtype")
    if row.get("ratio_max", 1.0) > HIGH_RATIO:
        found.append(
            f"ratio blow-up: {row['ratio_max']:.3g}; look at engine_difference_max, lag_max and lr"
        )
    if 0 <= row.get("entropy", math.inf) < LOW_ENTROPY:
        found.append(
            f"entropy collapse: {row['entropy']:.3g} nats; lower lr, raise the temperature or the "
            "entropy bonus"
        )
    if row.get("engine_difference_mean", 0.0) > DIFFERENCE:
        found.append(
            f"trainer and engine disagree: {row['engine_difference_mean']:.3g} nats a token; look "
            "at dtype and at layers whose kernels differ"
        )
    recent = [*before[-(STUCK_STEPS - 1) :], row]
    if len(recent) == STUCK_STEPS and all(r["groups_equal"] == r["groups"] for r in recent):
        found.append(
            f"stuck rewards: every group was equal for {STUCK_STEPS} steps; choose other tasks, or "
            "algorithm.fraction below 1"
        )
    found += [_equal(task, mean, times) for task, (mean, times) in row.get("equal", {}).items()]
    if row.get("oom"):
        found.append(
            f"out of memory {row['oom']:.0f} times: micro-batches were halved; set "
            "backend.micro_tokens to what fits, or backend.checkpointing"
        )
    if row.get("oversize"):
        found.append(
            f"{row['oversize']:.0f} samples were longer than a micro-batch and were not trained "
            "on; raise backend.micro_tokens"
        )
    masked = row.get("masked_episodes", 0.0)
    if masked and masked >= MASKED_SHARE * (masked + row["episodes"]):
        found.append(
            f"{masked:.0f} of {masked + row['episodes']:.0f} episodes were masked: "
            f"{row.get('masked_why', 'not graded')}"
        )
    first = [r["length"] for r in before[:STUCK_STEPS]]
    if len(first) == STUCK_STEPS and row["length"] > LONGER * max(first):
        found.append(
            f"exploding length: {row['length']:.0f} tokens, at first at most {max(first):.0f}; "
            "look at what the reward pays for"
        )
    return found
