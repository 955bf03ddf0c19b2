"""Gymnasium spaces that say what is really accepted: any text, and a command or a tool call.

Gymnasium's own ``Text`` promises a character set and a length that program output does not keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gymnasium.spaces import Space

from m2gym.core.tools import ToolSchema

SAMPLE_COMMANDS = ("true", "pwd", "ls", "ls -a", "echo hello", "git status --short", "wc -l *")
"""Harmless commands a random agent draws from; the project's choice."""


class AnyText(Space[str]):
    """Every Python string."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text is not flattened to an array."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short printable string."""
        length = int(self.np_random.integers(1, 17))
        return "".join(chr(int(code)) for code in self.np_random.integers(32, 127, length))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string."""
        return isinstance(x, str)

    def to_jsonable(self, sample_n: Iterable[str]) -> list[Any]:
        """Strings are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        """The inverse of `to_jsonable`."""
        return [str(text) for text in sample_n]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return "AnyText()"


class CommandOrToolCall(Space[Any]):
    """A shell command (any string), or ``{"name": tool, "arguments": {…}}`` of a listed tool."""

    def __init__(self, tools: Sequence[ToolSchema] = (), seed: int | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)
        self.tools = tuple(tools)

    @property
    def is_np_flattenable(self) -> bool:
        """Actions are not flattened to an array."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """One of `SAMPLE_COMMANDS`."""
        return SAMPLE_COMMANDS[int(self.np_random.integers(len(SAMPLE_COMMANDS)))]

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a command, or calls a listed tool with its required arguments."""
        if isinstance(x, str):
            return True
        if not isinstance(x, dict) or set(x) - {"name", "arguments"}:
            return False
        schema = next((tool for tool in self.tools if tool.name == x.get("name")), None)
        arguments = x.get("arguments", {})
        if schema is None or not isinstance(arguments, dict):
            return False
        known = set(schema.parameters.get("properties", {}))
        return set(schema.parameters.get("required", [])) <= set(arguments) <= known

    def to_jsonable(self, sample_n: Iterable[Any]) -> list[Any]:
        """Actions are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[Any]:
        """The inverse of `to_jsonable`."""
        return list(sample_n)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CommandOrToolCall) and self.tools == other.tools

    def __hash__(self) -> int:
        return hash(tuple(tool.name for tool in self.tools))

    def __repr__(self) -> str:
        return f"CommandOrToolCall({[tool.name for tool in self.tools]})"
