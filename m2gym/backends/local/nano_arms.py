"""Arms of m2-nano's ICRL experiment, as configurations of runs.

ICRL [arXiv 2603.08068] gives the curriculum (3, 2, 0 examples; optimiser anew at each stage) and
GRPO throughout: the arms named ``centred``. This project's: few-shot stages that take the reward
itself as the advantage (``centred`` with ``fraction`` 0) at a higher temperature and rate. With
centred advantages the few-shot reward soon is 1, groups become equal, and nothing moves the calls
into the weights. `COLD` and `DISTIL` are two other ways to begin, neither of them ICRL.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2gym.backends.train_config import TrainConfig
from m2gym.core.errors import UnknownIdError
from m2gym.models.nano import NAME

UNCENTRED = {"advantage": "centred", "fraction": 0.0, "temperature": 1.7, "lr": 8e-4}
GUARDED = {**UNCENTRED, "step_back": 1.5}
"""Of a stage at whose end weights that drifted are given up (`m2gym.backends.local.step_back`)."""

PLAIN = {"advantage": "normalised", "temperature": 1.0, "lr": 5e-4}
MIXED = (3, 2, 1)

UPDATES, GROUPS, SIZE, TOKENS = 100, 8, 8, 40
"""Updates of an arm at most, groups an update, attempts in each, longest answer."""

Stage = tuple[int | tuple[int, ...], int, dict[str, Any]]
"""Examples in the prompt (several: mixed between tasks), updates, settings."""


@dataclass(frozen=True)
class Arm:
    """What is done before RL without examples begins, and the stages of RL.

    Attributes:
        stages: of RL; they end early when questions without examples succeed.
        labelled: transcripts of right calls without examples that the model imitates first.
        distilled: updates in which it first imitates, without examples, what it wrote with three:
            context distillation (arXiv 2209.15189).
    """

    stages: tuple[Stage, ...] = ()
    labelled: int = 0
    distilled: int = 0


def _few(stages: tuple[tuple[Any, int], ...], settings: dict[str, Any]) -> Arm:
    """Stages with examples, then without up to `UPDATES` in all."""
    left = UPDATES - sum(steps for _, steps in stages)
    return Arm((*((shots, steps, settings) for shots, steps in stages), (0, left, PLAIN)))


_CURRICULA: dict[str, tuple[tuple[Any, int], ...]] = {
    "3-2-0": ((3, 30), (2, 20)),
    "3-2-1-0": ((3, 15), (2, 10), (1, 15)),
    "mixed-0": ((MIXED, 40),),
}

ARMS: dict[str, Arm] = {
    **{name: _few(stages, UNCENTRED) for name, stages in _CURRICULA.items()},
    **{f"{name}-centred": _few(stages, PLAIN) for name, stages in _CURRICULA.items()},
    "guarded": Arm(
        (*((shots, 10, GUARDED) for shots in (3, 3, 2, 1, 1)), (0, 70, PLAIN)),
    ),
    "zero": _few((), PLAIN),
    "none": Arm(),
    **{f"cold-{n}": Arm(((0, 60, PLAIN),), labelled=n) for n in (1, 2, 4, 8, 16)},
    "distil": Arm(((0, 60, PLAIN),), distilled=20),
}
"""By name. Curricula and ``zero`` have the same budget of updates and episodes."""

DEFAULT = "guarded"
"""The arm of the demo: 3-2-1-0 in pieces of ten updates. Each begins with a fresh optimiser and a
rising rate, and steps back where it drifted; `UPDATES` + 20 in all."""


def arm_of(name: str) -> Arm:
    """The arm of that name; `UnknownIdError` names the known ones."""
    if name not in ARMS:
        raise UnknownIdError("arm", name, ARMS)
    return ARMS[name]


def config_of(name: str, world: dict[str, Any], seed: int, out: Path) -> TrainConfig:
    """The configuration of an arm's RL."""
    stages = arm_of(name).stages
    return TrainConfig(
        env={"id": "tool-worlds", **world},
        agent={"id": "shots"},
        model=NAME,
        algorithm={"id": "grpo"},
        stages=[
            {"steps": steps, "agent": {"shots": shots}, **settings}
            for shots, steps, settings in stages
        ],
        train={
            "steps": max(1, sum(steps for _, steps, _ in stages)),
            "groups": GROUPS,
            "group_size": SIZE,
            "max_tokens": TOKENS,
            "warmup": 5,
            "seed": seed,
            "save_every": 10_000,
            "keep": 1,
            "eval_every": 10,
            "eval_tasks": 32,
            "stop_at": 0.975,
        },
        out=out,
    )
