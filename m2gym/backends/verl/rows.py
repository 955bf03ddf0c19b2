"""A step's row of metrics under the names that `m2gym.backends.local` uses, from verl's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m2gym.forge.advantages import Advantages
from m2gym.forge.records import PoolTrajectory

PHASES = {
    "gen": "generate",
    "adv": "advantages",
    "ref": "reference",
    "update_actor": "update",
    "update_weights": "weights",
}
"""verl's phases of a step, by ours; the row's ``seconds_other`` is the rest."""


@dataclass(frozen=True)
class Session:
    """One episode of the batch: ``key`` is verl's, ``masked`` says why it is not trained on."""

    key: str
    group: str
    task: str
    reward: float
    masked: str
    tokens: int
    completions: int
    trained: int
    oldest: int
    newest: int
    extra: dict[str, str] = field(default_factory=dict)

    def episode(self) -> PoolTrajectory:
        """As the local backend's functions take it, without its completions."""
        return PoolTrajectory(self.key, (), self.reward, task=self.task, extra=self.extra)


def sessions_of(
    keys: Sequence[str], tags: Sequence[Mapping[str, Any]], fields: Any
) -> list[Session]:
    """Episodes of verl's rows, by ``{group}_{member}_{row}``; padding rows are none."""
    found: dict[str, Session] = {}
    columns = zip(
        keys,
        tags,
        fields["response_mask"].unbind(),
        fields["rm_scores"].unbind(),
        fields["extra_fields"],
        fields["task"],
        strict=True,
    )
    for key, tag, mask, scores, extra, task in columns:
        if tag.get("is_padding", False):
            continue
        name, told = key.rsplit("_", 1)[0], getattr(extra, "data", extra)
        before = found.get(name)
        found[name] = Session(
            key=name,
            group=name.rsplit("_", 1)[0],
            task=str(getattr(task, "data", task)),
            reward=float(scores.sum()),
            masked=told["masked"],
            tokens=int(told["tokens"]),
            completions=int(told["completions"]),
            trained=int(mask.sum()) + (before.trained if before else 0),
            oldest=min(told["min_global_steps"], before.oldest if before else 2**31),
            newest=max(told["max_global_steps"], before.newest if before else -1),
            extra=dict(told["m2gym"]),
        )
    return list(found.values())


def row_of(
    sessions: Sequence[Session],
    advantages: Advantages,
    metrics: Mapping[str, Any],
    seconds: Mapping[str, float],
    *,
    step: int,
    engine_seconds: float,
    dropped: int,
    faults: Mapping[str, int],
) -> dict[str, Any]:
    """The row; ``lag_*`` are in weight versions, of whole episodes (verl keeps no token's own);
    ``dropped`` groups and the ``faults`` of their episodes are the run's so far."""
    graded = [s for s in sessions if not s.masked]
    rewards = [s.reward for s in graded]
    lag_max = max(step - 1 - s.oldest for s in graded)
    row: dict[str, Any] = {
        "step": step,
        "reward": float(np.mean(rewards)),
        "reward_std": float(np.std(rewards)),
        "episodes": float(len(graded)),
        "completions": float(sum(s.completions for s in graded)),
        "length": float(np.mean([s.tokens for s in graded])),
        "tokens": float(sum(s.trained for s in graded)),
        "groups": float(advantages.groups),
        "groups_equal": float(advantages.equal + advantages.lone),
        "masked_episodes": float(len(sessions) - len(graded)),
        "dropped_groups": float(dropped),
        "lag_max": float(lag_max),
        "lag_mean": float(np.mean([step - 1 - s.newest for s in graded])),
        "grad_norm": float(metrics.get("actor/grad_norm", 0.0)),
        "equal": {},
    }
    masked = Counter(s.masked for s in sessions if s.masked)
    for name, why in ("masked_why", masked), ("dropped_why", faults):
        if why:
            row[name] = ", ".join(f"{n} × {reason}" for reason, n in why.items())
    for name, value in metrics.items():
        own = name.removeprefix("m2gym/")
        if own != name and not own.startswith("window_"):
            row[own] = float(value)
    if lag_max:  # verl's batch does not say which tokens are of the current weights
        for name in ("engine_difference_mean", "engine_difference_max"):
            row.pop(name, None)
    total = float(seconds.get("step", 0.0))
    phases = {f"seconds_{ours}": float(seconds.get(theirs, 0.0)) for theirs, ours in PHASES.items()}
    row |= phases
    row["seconds_engine"] = engine_seconds
    row["seconds"] = total
    row["seconds_other"] = total - sum(phases.values())
    row["tokens_per_second"] = row["tokens"] / total if total else 0.0
    return row
