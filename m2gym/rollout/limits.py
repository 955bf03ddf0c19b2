"""What an episode may use, by phase, and what is done when infrastructure fails it."""

from __future__ import annotations

import random

from pydantic import Field, ValidationError

from m2gym.core.errors import (
    DownloadError,
    InfraError,
    InputError,
    ModelError,
    VerifierError,
    WorkspaceLostError,
)
from m2gym.core.task import Frozen, Task
from m2gym.core.trajectory import Trajectory


class EpisodeLimits(Frozen):
    """Bounds that replace a task's own; ``None`` leaves the task's (or no) bound. In seconds.

    ``working`` counts the agent's time apart from waiting for the model's turn (queues, rate
    limits, back-off); ``agent`` is wall time and the deadline that the agent is told. ``wall`` ends
    the agent, too, counted from the opening of the box on; what is left is graded all the same,
    within ``grade``.
    """

    start: float | None = Field(None, gt=0, description="files at hand and box open")
    agent: float | None = Field(None, gt=0, description="the scaffold runs, waiting included")
    working: float | None = Field(None, gt=0, description="the scaffold runs, waiting left out")
    grade: float | None = Field(None, gt=0, description="the verdict is made")
    wall: float | None = Field(None, gt=0, description="start and agent together")
    steps: int | None = Field(None, ge=1, description="actions an episode may take")

    def apply(self, task: Task) -> Task:
        """The task with these limits in the place of its own."""
        seconds = [s for s in (self.agent or task.limits.seconds, self.wall) if s is not None]
        changes = {
            "seconds": min(seconds, default=None),
            "grade_seconds": self.grade or task.limits.grade_seconds,
            "steps": self.steps or task.limits.steps,
        }
        if all(getattr(task.limits, key) == value for key, value in changes.items()):
            return task
        return task.model_copy(update={"limits": task.limits.model_copy(update=changes)})


PERMANENT = frozenset({"model_auth", "model_refused", "model_input", "model_ended"})
"""Causes that another try will not mend."""


def cause_word(error: BaseException) -> str:
    """One word for what failed: ``box``, ``download``, ``model_CAUSE``, ``start``, ``system``,
    ``node``, ``infra`` or ``verifier``."""
    if isinstance(error, ModelError):
        return f"model_{error.cause}"
    own = getattr(error, "cause_word", None)
    if isinstance(own, str):
        return own
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (DownloadError, "download"),
        (WorkspaceLostError, "box"),
        (VerifierError, "verifier"),
        (InfraError, "infra"),
        (OSError, "system"),
    )
    return next((word for kind, word in kinds if isinstance(error, kind)), "verifier")


def parse_limits(changes: dict[str, str]) -> EpisodeLimits:
    """Limits from text: phase → number.

    >>> parse_limits({"agent": "600", "steps": "40"}).agent
    600.0
    """
    for name in changes:
        if name not in EpisodeLimits.model_fields:
            known = ", ".join(EpisodeLimits.model_fields)
            raise InputError(f"no limit {name!r}; there are {known}")
    try:
        return EpisodeLimits.model_validate(changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"limit {first['loc'][0]}: {first['msg']}") from None


class StartTimeoutError(InfraError):
    """The box was not open within the limit."""

    cause_word = "start"


class Retries(Frozen):
    """How often an episode that infrastructure failed is tried again within a run.

    The numbers are the project's choice. A model's client has retried its calls already, so a
    failed model gets one more episode.
    """

    budget: int | None = Field(
        None, ge=0, description="of the whole run; by default a tenth of its episodes, at least 8"
    )
    tries: dict[str, int] = Field(
        default_factory=lambda: {"box": 2, "download": 2, "start": 1, "node": 3, "model": 1},
        description="further tries of one episode by cause; `model` for all of a model's",
    )
    other: int = Field(1, ge=0, description="for infrastructure's causes that are not named")
    base: float = Field(0.5, ge=0, description="seconds before the first, doubled each time")
    longest: float = Field(30.0, ge=0, description="most seconds before one")

    def of_run(self, episodes: int) -> int:
        """The budget of a run of so many episodes."""
        return max(8, episodes // 10) if self.budget is None else self.budget

    def wait(self, record: Trajectory, before: list[str]) -> float | None:
        """Seconds before the next try, given the causes of those lost ``before``; ``None``: no."""
        cause = record.cause or "infra"
        if record.verdict.status != "infra_error" or cause in PERMANENT:
            return None
        kind = "model" if cause.startswith("model_") else cause
        allowed = self.tries.get(cause, self.tries.get(kind, self.other))
        if sum(c == cause or kind == "model" == c.partition("_")[0] for c in before) >= allowed:
            return None
        span = min(self.longest, self.base * 2 ** len(before))
        return float(span * random.uniform(0.5, 1.0))
