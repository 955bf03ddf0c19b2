"""The agent that follows a list of actions; deterministic, so it also tests everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from m2gym.core.errors import InputError
from m2gym.core.protocols import Action, Episode

ANY_TASK = "*"
"""The key of the actions for every task that has none of its own."""


@dataclass
class Scripted:
    """Does its actions in order, then submits; stops early when the episode is over.

    ``actions`` is one list for all tasks, or task id → list (``"*"`` for the others). An action is
    a shell command or ``{"name": …, "arguments": {…}}``.
    """

    actions: Sequence[Action] | Mapping[str, Sequence[Action]]
    name: str = field(default="scripted", init=False)
    uses_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        listed = self.actions if isinstance(self.actions, Mapping) else {ANY_TASK: self.actions}
        for task, actions in listed.items():
            if isinstance(actions, str) or not isinstance(actions, Sequence):
                raise InputError(f"scripted: {task!r} needs a list of actions, got {actions!r}")
            for action in actions:
                if not isinstance(action, str) and not (
                    isinstance(action, dict) and isinstance(action.get("name"), str)
                ):
                    raise InputError(
                        "scripted: an action is a shell command or {'name', 'arguments'}, got "
                        f"{action!r} for {task!r}"
                    )

    @classmethod
    def from_argument(cls, argument: str) -> Scripted:
        """From a YAML or JSON file."""
        try:
            data: Any = yaml.safe_load(Path(argument).read_text("utf-8"))
        except OSError as error:
            raise InputError(f"scripted: cannot read {argument!r}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"scripted: {argument!r} is not YAML or JSON: {error}") from error
        if not isinstance(data, (list, dict)):
            raise InputError(
                f"scripted: {argument!r} must hold a list of actions, or task ids with lists; "
                f"got {type(data).__name__}"
            )
        return cls(data)

    async def run(self, episode: Episode) -> None:
        for action in self._for(episode.task.id):
            if episode.done:
                return
            await episode.act(action)
        if not episode.done:
            await episode.submit()

    def _for(self, task: str) -> Sequence[Action]:
        if not isinstance(self.actions, Mapping):
            return self.actions
        found = self.actions.get(task, self.actions.get(ANY_TASK))
        if found is None:
            raise InputError(
                f"scripted: no actions for task {task!r}; name it, or add {ANY_TASK!r} for all"
            )
        return found
