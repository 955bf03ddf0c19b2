"""``react``: a tool-calling loop with interleaved thinking; its program is `programs/react`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.errors import InputError
from m2gym.scaffolds.program import PROGRAMS, Program, settings_from

CONTEXTS = tuple(
    re.findall(r'^@policy\("([\w-]+)"\)', (PROGRAMS / "react" / "contexts.py").read_text(), re.M)
)
"""Ids of its context policies."""


@dataclass
class React(Program):
    """Calls the environment's tools until it submits; ``settings`` as `programs/react/main.py`."""

    name: str = field(default="react", init=False)
    uses_model: ClassVar[bool | None] = True
    shipped: ClassVar[str] = "react"

    def __post_init__(self) -> None:
        super().__post_init__()
        context = self.settings.get("context", {"id": "none"})
        if not isinstance(context, dict) or context.get("id") not in CONTEXTS:
            raise InputError(
                f"react: context is {{'id': one of {', '.join(CONTEXTS)}, …}}, got {context!r}"
            )

    @classmethod
    def from_argument(cls, argument: str) -> React:
        """From a context policy's id, or a YAML file of settings."""
        if argument in CONTEXTS:
            return cls(settings={"context": {"id": argument}})
        return cls(settings=settings_from(argument))


@dataclass
class Bash(Program):
    """One shell command an answer, in a fenced block; ``settings`` as `programs/bash/main.py`."""

    name: str = field(default="bash", init=False)
    uses_model: ClassVar[bool | None] = True
    shipped: ClassVar[str] = "bash"

    @classmethod
    def from_argument(cls, argument: str) -> Bash:
        """From a YAML file of settings."""
        return cls(settings=settings_from(argument))
