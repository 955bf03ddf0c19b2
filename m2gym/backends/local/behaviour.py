"""What an episode shows besides its reward: calls, ends, accuracy, and the zero-shot probe.

Kept with the episode in the pool as text by name, so that a resumed run logs the same numbers:

================  ==================================================================
``turns``         completions
``calls``         actions that the environment carried out, the answer left out
``finished``      1 where an answer was given, as the agent's own rule has it
``accuracy``      score of the reward ``answer``, where the task has one
``seconds``       wall time of the agent
``error``         why it was not graded, what the agent raised, or why no call was answered
``zero_prompt``   ids of the first prompt without its examples, where the agent has any
================  ==================================================================

``nll0`` is the summed negative log-likelihood of a right first completion (here: that of the first
member of the group that was accurate) under the prompt without examples. It shows that what the
examples do goes into the weights long before a zero-shot attempt succeeds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from m2gym.core.protocols import Scaffold
from m2gym.core.task import Task
from m2gym.core.tools import ToolSchema
from m2gym.core.trajectory import Trajectory
from m2gym.forge.records import PoolTrajectory
from m2gym.forge.tree import Sample
from m2gym.models.chat_format import TurnFormat

ENDS = ("answer", "submit")
"""Actions that end an episode; they are no tool calls."""

ACCURATE = 1.0


def extras(
    trajectory: Trajectory, task: Task, scaffold: Scaffold, format: TurnFormat
) -> dict[str, str]:
    """See the module; what cannot be told is left out."""
    names = [_name(step.action) for step in trajectory.steps]
    found: dict[str, str] = {
        "turns": str(len(trajectory.completions)),
        "calls": str(sum(name not in ENDS for name in names)),
        "seconds": repr(trajectory.seconds.get("agent", 0.0)),
        "finished": str(int(_finished(trajectory, scaffold))),
    }
    if trajectory.error:
        found["error"] = trajectory.error
    elif trajectory.faults and not trajectory.completions:
        found["error"] = "no call of the model was answered: {cause}: {message}".format(
            **trajectory.faults[-1]
        )
    if "answer" in trajectory.verdict.scores:
        found["accuracy"] = repr(trajectory.verdict.scores["answer"].value)
    bare = getattr(scaffold, "zero_shot", None)
    if bare is not None and trajectory.completions:
        first = trajectory.completions[0]
        messages = bare(first.messages, task.instruction)
        if messages != list(first.messages):
            found["zero_prompt"] = json.dumps(format.render(messages, _schemas(first.tools)))
    return found


def behaviour(groups: Sequence[Sequence[PoolTrajectory]]) -> dict[str, float]:
    """Means over episodes: ``valid_calls`` (share of turns that are no answer whose call was
    carried out), ``calls`` an episode, ``finish_rate``, ``accuracy``. Empty where nothing is known.
    """
    known = [e for group in groups for e in group if "turns" in e.extra]
    if not known:
        return {}

    def total(name: str) -> float:
        return sum(float(e.extra.get(name, 0.0)) for e in known)

    asked = total("turns") - total("finished")
    found = {
        "calls": total("calls") / len(known),
        "valid_calls": min(1.0, total("calls") / asked) if asked > 0 else 1.0,
        "finish_rate": total("finished") / len(known),
    }
    judged = [float(e.extra["accuracy"]) for e in known if "accuracy" in e.extra]
    if judged:
        found["accuracy"] = statistics.fmean(judged)
    return found


def success(groups: Sequence[Sequence[PoolTrajectory]]) -> float:
    """Mean accuracy, or reward where there is none, within [0, 1]: what ends a stage early."""
    values = [
        float(e.extra.get("accuracy", e.reward or 0.0)) for group in groups for e in group
    ]  # fmt: skip
    return min(1.0, max(0.0, statistics.fmean(values)))


def probes(groups: Sequence[Sequence[PoolTrajectory]]) -> list[Sample]:
    """A right first completion of every group that has one, after the prompt without examples."""
    found = []
    for group in groups:
        right = [
            e
            for e in group
            if "zero_prompt" in e.extra
            and float(e.extra.get("accuracy", e.reward or 0.0)) >= ACCURATE
        ]
        if right:
            prompt = np.array(json.loads(right[0].extra["zero_prompt"]), np.int64)
            ids = right[0].completions[0].response_ids.astype(np.int64)
            found.append(Sample.of(prompt, ids, np.zeros(len(ids))))
    return found


def _finished(trajectory: Trajectory, scaffold: Scaffold) -> bool:
    own = getattr(scaffold, "finished", None)
    if own is not None:
        return bool(own(trajectory))
    return trajectory.verdict.stop == "submitted"


def _name(action: str | dict[str, Any]) -> str:
    return "bash" if isinstance(action, str) else str(action.get("name"))


def _schemas(tools: Sequence[dict[str, Any]]) -> list[ToolSchema]:
    return [ToolSchema.model_validate(tool["function"]) for tool in tools]
