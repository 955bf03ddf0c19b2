"""The backends that need no provider."""

from __future__ import annotations

from m2gym.core.protocols import Model
from m2gym.models.replay import ReplayModel
from m2gym.models.scripted import ScriptedModel


class ScriptedBackend:
    """``scripted:FILE``: says the turns of a JSON or YAML file."""

    def model(self, spec: str) -> Model:
        """``spec`` is the file."""
        return ScriptedModel.load(spec)


class ReplayBackend:
    """``replay:RUN``: answers as the model of a recorded run did, without calling it."""

    def model(self, spec: str) -> Model:
        """``spec`` is the run's folder or its ``trajectories.jsonl``."""
        return ReplayModel.load(spec)
