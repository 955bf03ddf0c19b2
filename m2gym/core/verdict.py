"""Scores, and the verdict of an episode."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from pydantic import Field, model_validator

from m2gym.core.notebook import folded, table
from m2gym.core.task import Frozen, Isolation

Status = Literal["ok", "agent_error", "forged", "infra_error", "verifier_error", "cancelled"]
Stop = Literal[
    "submitted", "exited", "deadline", "steps", "tokens", "cost", "context", "output", "loop"
]

GRADED: frozenset[str] = frozenset({"ok", "agent_error", "forged"})
"""Statuses that carry a reward; the others carry none and are masked by trainers."""


class Score(Frozen):
    """What one reward function says: a finite value, and why.

    ``forged`` means the artifacts tried to fake the evidence: the verdict's reward is then 0.
    """

    value: float
    evidence: dict[str, Any] = Field(default_factory=dict)
    forged: bool = False

    @model_validator(mode="after")
    def _finite(self) -> Score:
        if not math.isfinite(self.value):
            raise ValueError(f"a score must be a finite number, got {self.value}")
        return self


class Verdict(Frozen):
    """The judgement of one episode; ``reward`` is ``None`` unless it was really graded."""

    reward: float | None
    scores: dict[str, Score] = Field(default_factory=dict)
    status: Status = "ok"
    stop: Stop | None = None
    isolation: Isolation = "fresh"
    evidence: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _reward_fits_status(self) -> Verdict:
        if self.status in GRADED and (self.reward is None or not math.isfinite(self.reward)):
            raise ValueError(f"status {self.status!r} needs a finite reward, got {self.reward}")
        if self.status not in GRADED and self.reward is not None:
            raise ValueError(f"status {self.status!r} has no reward, got {self.reward}")
        if self.status == "forged" and self.reward != 0:
            raise ValueError(f"a forged episode has reward 0, got {self.reward}")
        return self

    @property
    def graded(self) -> bool:
        """Whether the episode has a reward that a trainer may use."""
        return self.status in GRADED

    def _repr_html_(self) -> str:
        reward = "none" if self.reward is None else f"{self.reward:g}"
        rows = [("reward", reward), ("status", self.status), ("ended by", self.stop or "–")]
        rows += [(f"score {name}", f"{score.value:g}") for name, score in self.scores.items()]
        evidence = {name: score.evidence for name, score in self.scores.items()}
        text = json.dumps({**evidence, "grading": self.evidence}, indent=1, default=str)
        return table(rows) + folded("evidence", text[:20_000])
