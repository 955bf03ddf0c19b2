"""Curriculum: stages with fewer and fewer examples in the rollout prompt [ICRL, arXiv 2603.08068].

::

    3 shots ──100 steps or success──► 2 shots ──► 0 shots
            reset of reference            which domains are drawn, how advantages are
            model and optimiser           centred and at which temperature: by stage

The published schedule is 3, 2, 0 shots with 100 steps each (`icrl`). Plain numbers and ids go in
and out; who holds the weights does the resets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from m2gym.core.errors import InputError

T = TypeVar("T")

SUCCESS_WINDOW = 10
"""Steps over which a success rate is averaged before a stage ends: this project's choice."""


@dataclass(frozen=True)
class Stage:
    """One stage; ends after ``steps``, or earlier at ``success`` (mean of recent steps).

    ``fraction``: of the group's mean that advantages subtract (`m2gym.forge.advantages`).
    ``domains``: weights of the mix; undisclosed in M2, so this project's or the user's choice.
    """

    shots: int
    steps: int
    success: float | None = None
    reset_reference: bool = True
    reset_optimizer: bool = True
    temperature: float = 1.0
    fraction: float = 1.0
    domains: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shots < 0 or self.steps < 1:
            raise InputError(f"expected shots >= 0 and steps >= 1, got {self.shots}, {self.steps}")
        if self.success is not None and not 0 < self.success <= 1:
            raise InputError(f"success is a rate in (0, 1], got {self.success}")
        if any(not w >= 0 for w in self.domains.values()) or (
            self.domains and not sum(self.domains.values()) > 0
        ):
            raise InputError(f"domain weights are >= 0 and not all 0, got {dict(self.domains)}")


def icrl(steps: int = 100) -> tuple[Stage, ...]:
    """The published schedule: 3, 2, 0 shots."""
    return tuple(Stage(shots, steps) for shots in (3, 2, 0))


@dataclass(frozen=True)
class Transition:
    """Into a new stage: what to reset first. ``stage`` is ``None`` after the last."""

    stage: Stage | None
    reset_reference: bool
    reset_optimizer: bool
    reason: str


class Curriculum:
    """Walks the stages; `step` once an optimiser step.

    >>> walk = Curriculum([Stage(1, steps=1), Stage(0, steps=1)])
    >>> walk.stage.shots, walk.step(0.2).stage.shots, walk.step(0.3).stage
    (1, 0, None)
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        if not stages:
            raise InputError("a curriculum has at least one stage")
        self.stages = tuple(stages)
        self.index = 0
        self.steps_in_stage = 0
        self._recent: deque[float] = deque(maxlen=SUCCESS_WINDOW)

    @property
    def done(self) -> bool:
        """Whether the last stage has ended."""
        return self.index >= len(self.stages)

    @property
    def stage(self) -> Stage:
        """The current stage."""
        if self.done:
            raise InputError("the curriculum has ended; check `done` before asking for a stage")
        return self.stages[self.index]

    def step(self, success: float) -> Transition | None:
        """Count a step with its success rate; a `Transition` when the stage ends with it."""
        if not 0 <= success <= 1:
            raise InputError(f"a success rate lies in [0, 1], got {success}")
        stage = self.stage
        self.steps_in_stage += 1
        self._recent.append(success)
        mean = sum(self._recent) / len(self._recent)
        reached = (
            stage.success is not None
            and len(self._recent) == SUCCESS_WINDOW
            and mean >= stage.success
        )
        if not reached and self.steps_in_stage < stage.steps:
            return None
        self.index += 1
        self.steps_in_stage = 0
        self._recent.clear()
        if self.done:
            return Transition(None, False, False, "the last stage has ended")
        reason = f"success {mean:.2f}" if reached else f"{stage.steps} steps"
        new = self.stage
        return Transition(new, new.reset_reference, new.reset_optimizer, reason)

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {
            "index": self.index,
            "steps_in_stage": self.steps_in_stage,
            "recent": list(self._recent),
        }

    def load(self, state: Mapping[str, object]) -> None:
        """Continue from `state`."""
        index, steps, recent = state["index"], state["steps_in_stage"], state["recent"]
        if not (isinstance(index, int) and isinstance(steps, int) and isinstance(recent, list)):
            raise InputError(f"not a curriculum's state: {dict(state)}")
        if not 0 <= index <= len(self.stages):
            raise InputError(f"stage {index} of a curriculum of {len(self.stages)}")
        self.index, self.steps_in_stage = index, steps
        self._recent = deque(recent, maxlen=SUCCESS_WINDOW)


class ShotPool(Generic[T]):
    """Few-shot examples: those given, and the policy's own successful trajectories.

    Of the own ones the most recent ``keep`` a domain are kept. The task being asked is never its
    own example.
    """

    def __init__(self, given: Mapping[str, Sequence[tuple[str, T]]], keep: int = 64) -> None:
        self._given = {domain: list(shots) for domain, shots in given.items()}
        self._keep = keep
        self._own: dict[str, deque[tuple[str, T]]] = {}

    def add(self, domain: str, task: str, shot: T) -> None:
        """A trajectory of the policy that succeeded."""
        self._own.setdefault(domain, deque(maxlen=self._keep)).append((task, shot))

    def draw(
        self, domain: str, task: str, count: int, rng: np.random.Generator, *, own: float = 0.0
    ) -> list[T]:
        """``count`` examples of distinct tasks, each from the own ones with probability ``own``.

        Raises:
            InputError: fewer distinct tasks than asked for.
        """
        given = [s for s in self._given.get(domain, []) if s[0] != task]
        mine = [s for s in self._own.get(domain, ()) if s[0] != task]
        chosen: list[T] = []
        used: set[str] = set()
        for _ in range(count):
            prefer = (mine, given) if rng.random() < own else (given, mine)
            for source in prefer:
                left = [s for s in source if s[0] not in used]
                if left:
                    key, shot = left[int(rng.integers(len(left)))]
                    used.add(key)
                    chosen.append(shot)
                    break
            else:
                raise InputError(
                    f"asked for {count} examples of {domain!r}, there are {len(used)} of other "
                    f"tasks than {task!r}; give more, or lower the number of shots"
                )
        return chosen


def draw_domain(stage: Stage, rng: np.random.Generator) -> str:
    """A domain by the stage's weights."""
    if not stage.domains:
        raise InputError("the stage names no domains to draw from")
    names = sorted(stage.domains)
    weights = np.array([stage.domains[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


@dataclass
class DynamicSampling:
    """Keep only groups that teach: whose rewards differ (DAPO, arXiv 2503.14476, 3.2).

    ``needed`` groups make a batch; `offer` says whether a group is kept and counts the rest.
    """

    needed: int
    kept: int = 0
    equal: int = 0
    empty: int = 0

    def offer(self, rewards: Sequence[float | None]) -> bool:
        """Rewards of a group, ``None`` for a masked member; at least two must differ."""
        known = [r for r in rewards if r is not None]
        if not known:
            self.empty += 1
            return False
        if all(r == known[0] for r in known):
            self.equal += 1
            return False
        self.kept += 1
        return True

    @property
    def missing(self) -> int:
        """Groups still to be found for the batch."""
        return max(0, self.needed - self.kept)
