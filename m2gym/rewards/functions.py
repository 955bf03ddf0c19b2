"""Reward functions: registered by name, called with the arguments they ask for by name.

A function may ask for ``task``, ``prepared``, ``workspace`` (the fresh grading box), ``artifacts``,
``trajectory``, ``grading`` (all of these, and the seed); a box is made only where one asks for
``workspace`` or ``grading``. Every other argument is a parameter that
the task's `RewardSpec` gives.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from m2gym.core.artifacts import Artifacts
from m2gym.core.errors import InputError, M2GymError, VerifierError
from m2gym.core.registry import REWARDS
from m2gym.core.task import RewardSpec, Task
from m2gym.core.verdict import Score

F = TypeVar("F", bound=Callable[..., Any])

GIVEN = frozenset({"task", "prepared", "workspace", "artifacts", "trajectory", "grading"})
"""Argument names that the verifier fills."""


class UnusableArtifactError(InputError, KeyError):
    """The agent left no such artifact, or one that does not parse: the function scores 0."""

    __str__ = Exception.__str__


class GradedArtifacts(Artifacts):
    """Artifacts whose lack or bad form is the agent's doing, not a bug of the reward function."""

    def __getitem__(self, path: str) -> bytes:
        try:
            return super().__getitem__(path)
        except KeyError as error:
            raise UnusableArtifactError(error.args[0]) from None

    def open(self, path: str) -> Any:
        """As `Artifacts.open`; what does not parse raises `UnusableArtifactError`."""
        try:
            return super().open(path)
        except UnusableArtifactError:
            raise
        except InputError as error:
            raise UnusableArtifactError(str(error)) from error


def reward(name: str) -> Callable[[F], F]:
    """Register the decorated function, sync or async, as the reward ``name``.

    It returns a `Score`, a float or a bool. Raises `InputError` when its arguments cannot be
    asked for by name.
    """

    def add(function: F) -> F:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise InputError(
                    f"reward {name!r}: arguments are given by name, so {parameter} cannot be used"
                )
        REWARDS.register(name, function)
        return function

    return add


def bind(spec: RewardSpec, function: Callable[..., Any]) -> dict[str, Any]:
    """The checked parameters of one reward of a task.

    Raises:
        InputError: a parameter is unknown, missing, or of another type; the message names it.
    """
    signature = inspect.signature(function).parameters
    wanted = {key: p for key, p in signature.items() if key not in GIVEN}
    unknown = sorted(set(spec.parameters) - set(wanted))
    if unknown:
        raise InputError(
            f"reward {spec.name!r} has no parameter {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(sorted(wanted)) or 'none'}"
        )
    missing = [k for k, p in wanted.items() if p.default is p.empty and k not in spec.parameters]
    if missing:
        raise InputError(f"reward {spec.name!r} needs parameter {', '.join(map(repr, missing))}")
    try:
        hints = get_type_hints(function)
    except NameError:
        hints = {}
    values: dict[str, Any] = {}
    for key, value in spec.parameters.items():
        try:
            values[key] = TypeAdapter(hints.get(key, Any)).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            where = "".join(f"[{part!r}]" for part in problem["loc"])
            raise InputError(
                f"reward {spec.name!r}: parameter {key}{where}: {problem['msg']}, got {value!r:.80}"
            ) from None
    return values


def check_rewards(task: Task) -> None:
    """Refuse a task whose rewards cannot be computed, before an episode is spent on it.

    Raises:
        InputError: the task has no reward, or one with unknown or missing parameters.
        UnknownIdError: no such reward function; the message names the nearest.
    """
    if not task.rewards:
        raise InputError(f"task {task.id!r} has no reward; give it rewards=(RewardSpec(name=…),)")
    for spec in task.rewards:
        if not math.isfinite(spec.weight):
            raise InputError(f"reward {spec.name!r}: weight must be finite, got {spec.weight}")
        bind(spec, REWARDS.get(spec.name))


def looks_at_box(task: Task) -> bool:
    """Whether any of a task's rewards asks for a grading box: ``workspace`` or ``grading``."""
    asked = (inspect.signature(REWARDS.get(spec.name)).parameters for spec in task.rewards)
    return any(name in parameters for parameters in asked for name in ("workspace", "grading"))


async def call(spec: RewardSpec, given: Mapping[str, Any]) -> Score:
    """What one reward function says.

    Raises:
        VerifierError: the function raised, or returned no finite number.
        InfraError: a box failed under it.
    """
    function = REWARDS.get(spec.name)
    arguments = bind(spec, function)
    arguments |= {k: given[k] for k in inspect.signature(function).parameters if k in GIVEN}
    try:
        value = function(**arguments)
        if inspect.isawaitable(value):
            value = await value
    except UnusableArtifactError as error:
        return Score(value=0.0, evidence={"error": str(error)})
    except M2GymError:
        raise
    except Exception as error:  # the one boundary to code of strangers: whatever it raises is a bug
        raise VerifierError(
            f"reward {spec.name!r} raised {type(error).__name__}: {error}"
        ) from error
    return as_score(spec.name, value)


def as_score(name: str, value: object) -> Score:
    """A `Score`, number or bool as a `Score`; anything else is a `VerifierError`."""
    if isinstance(value, Score):
        return value
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise VerifierError(
            f"reward {name!r} must return a Score, a bool or a finite number, got {value!r:.80}"
        )
    return Score(value=float(value))
