"""The model's side of an episode: a session over the run's model, and what of it goes on record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.protocols import Model, Scaffold
from m2gym.core.trajectory import Completion
from m2gym.envs.episode import WorkspaceEpisode
from m2gym.models.budget import Budget
from m2gym.models.session import RecordedSession


def as_model(model: str | Model | None) -> tuple[Model | None, str | None]:
    """A model and its name, from its specification or the object itself."""
    if model is None:
        return None, None
    if isinstance(model, str):
        from m2gym.models import load_model

        return load_model(model), model
    if not hasattr(model, "stream"):
        raise InputError(f"a model is a specification such as 'scripted:FILE', got {model!r}")
    return model, str(getattr(model, "name", type(model).__name__))


def check_uses_model(scaffold: Scaffold, model: object) -> None:
    """`InputError` where a scaffold that calls a model has none, or one that calls none has one.

    A scaffold says so by ``uses_model``; without it both will do.
    """
    uses = getattr(scaffold, "uses_model", None)
    if uses is True and model is None:
        raise InputError(f"agent {scaffold.name!r} calls a model: name one with --model (model=…)")
    if uses is False and model is not None:
        raise InputError(f"agent {scaffold.name!r} calls no model; leave the model out")


def open_session(
    model: Model | None, episode: WorkspaceEpisode, scaffold: Scaffold, budget: Budget | None
) -> RecordedSession | None:
    """The episode's session.

    A scaffold that acts unseen (``unseen``: a program of its own) takes a step with each answer of
    its model, so the task's limit of steps ends its session.
    """
    if model is None:
        return None
    most = episode.task.limits.steps
    if not getattr(scaffold, "unseen", False) or most is None:
        return RecordedSession(model, id=episode.id, budget=budget)
    limit = _StepLimit(most)
    limit.session = RecordedSession(model, id=episode.id, budget=budget, record=limit)
    return limit.session


class _StepLimit:
    session: RecordedSession

    def __init__(self, most: int) -> None:
        self._most = most

    def __call__(self, completion: Completion) -> None:
        if len(self.session.completions) >= self._most:
            self.session.stop = "steps"
            self.session.end(f"the task's limit of {self._most} steps is reached")


def recorded(session: RecordedSession | None) -> dict[str, Any]:
    """The fields of a trajectory that come from a session."""
    if session is None:
        return {}
    return {
        "completions": tuple(session.completions),
        "faults": tuple(asdict(fault) for fault in session.faults),
        "usage": session.usage,
    }
