"""Stages of a training run: what differs by stage, and when the next one begins [ICRL].

::

    few-shot, own objective ──steps or success──► zero-shot, another rate ──► … to train.steps
                       optimiser and reference begin anew

`m2gym.forge.curriculum` walks; here stand the settings. Without stages a run has a single one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2gym.backends.train_config import (
    AlgorithmConfig,
    StageConfig,
    TrainConfig,
    TrainSettings,
)
from m2gym.core.errors import InputError
from m2gym.forge.curriculum import Curriculum, Stage, Transition

OF_ALGORITHM = ("epsilon_low", "epsilon_high", "kl", "entropy", "advantage", "fraction")


class Stages:
    """The run's stages, and where it is.

    >>> config = TrainConfig(env="e", model="m", train={"steps": 5},
    ...     stages=[{"steps": 2, "temperature": 1.7}, {"lr": 0.1}])
    >>> stages = Stages(config)
    >>> stages.settings.temperature, stages.step(0.0), stages.step(0.0).reason, stages.settings.lr
    (1.7, None, '2 steps', 0.1)

    Raises:
        InputError: stages that leave none of ``train.steps`` to the last one, temperatures that
            differ while generation runs ahead, a held-out reward to stop at that nothing measures.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.parts = config.stages or (StageConfig(),)
        _check(config)
        self.walk = Curriculum([self._stage(n) for n in range(len(self.parts))])
        self.begun = 0

    @property
    def index(self) -> int:
        """The current stage, from 0."""
        return min(self.walk.index, len(self.parts) - 1)

    @property
    def algorithm(self) -> AlgorithmConfig:
        """Objective and advantages of the current stage."""
        return self.algorithm_of(self.index)

    @property
    def settings(self) -> TrainSettings:
        """Rate and temperature of the current stage, and what all stages share."""
        return self.settings_of(self.index)

    @property
    def guarded(self) -> bool:
        """Whether the current stage or a later one may step back at its end."""
        return any(part.step_back is not None for part in self.parts[self.index :])

    def algorithm_of(self, index: int) -> AlgorithmConfig:
        """Of one stage. Another objective's clipping is its own published one."""
        part, base = self.parts[index], self.config.algorithm
        own = {n: v for n in OF_ALGORITHM if (v := getattr(part, n)) is not None}
        if part.objective is not None and part.objective != base.id:
            cleared = {"epsilon_low": None, "epsilon_high": None, "kl": 0.0, "entropy": 0.0}
            own = {**cleared, **own, "id": part.objective}
        return base.model_copy(update=own)

    def settings_of(self, index: int) -> TrainSettings:
        """Of one stage."""
        part = self.parts[index]
        own = {n: v for n in ("lr", "temperature") if (v := getattr(part, n)) is not None}
        return self.config.train.model_copy(update=own)

    def step(self, success: float) -> Transition | None:
        """Count an update, and its success rate; what to reset, when a new stage begins with it."""
        if self.walk.done:
            return None
        done = self.walk.step(min(1.0, max(0.0, success)))
        return done if done is not None and done.stage is not None else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"walk": self.walk.state(), "begun": self.begun}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; a last stage may have become longer."""
        self.walk.load(state["walk"])
        self.walk.index = min(self.walk.index, len(self.parts) - 1)
        self.begun = int(state["begun"])

    def _stage(self, index: int) -> Stage:
        part = self.parts[index]
        return Stage(
            shots=0,
            steps=part.steps or self.config.train.steps,
            success=part.success,
            reset_reference=part.reset_reference,
            reset_optimizer=part.reset_optimizer,
        )


def _check(config: TrainConfig) -> None:
    if config.train.stop_at is not None and config.train.eval_every is None:
        raise InputError(
            f"train.stop_at={config.train.stop_at:g} is a reward on held-out tasks, which nothing "
            "measures: set train.eval_every"
        )
    before = config.stages[:-1]
    for n, stage in enumerate(before):
        if stage.steps is None:
            raise InputError(f"stages.{n} needs steps: only the last stage may leave them out")
    spent = sum(stage.steps or 0 for stage in before)
    if before and spent >= config.train.steps:
        raise InputError(
            f"the first {len(before)} stages take {spent} updates and train.steps is "
            f"{config.train.steps}: the last stage would never begin; raise train.steps"
        )
    own = {s.temperature or config.train.temperature for s in config.stages}
    if len(own) > 1 and config.algorithm.schedule.lag:
        raise InputError(
            f"stages have temperatures {sorted(own)} and schedule.lag is "
            f"{config.algorithm.schedule.lag}: what was sampled at one temperature cannot be "
            "trained on at another; set lag to 0, or one temperature"
        )
