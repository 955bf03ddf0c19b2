"""The agent that tries harmless things at random: a floor above which a score means something."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

from m2gym.core.errors import InputError
from m2gym.core.protocols import Action, Episode
from m2gym.core.tools import ToolSchema

COMMANDS = (
    "ls -la",
    "pwd",
    "git status --short | head",
    "find . -name '*.py' | head -20",
    "head -40 $(find . -name '*.py' | sort | head -1)",
    "grep -rn 'def ' --include='*.py' . | head",
    "wc -l $(find . -name '*.py' | head -20)",
    "touch notes.txt",
    "echo note >> notes.txt",
    "du -sh .",
)
"""They read, or write a file of their own; the project's choice."""


@dataclass
class RandomCommands:
    """Does ``steps`` random shell commands or, in environments without a shell, tool calls.

    The same ``seed`` does the same in the same task and attempt. Arguments of tools are drawn
    from the tool's JSON schema.
    """

    steps: int = 5
    seed: int = 0
    name: str = field(default="random", init=False)
    uses_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"random: steps must be at least 0, got {self.steps}")

    @classmethod
    def from_argument(cls, argument: str) -> RandomCommands:
        """From the number of steps."""
        if not argument.isdigit():
            raise InputError(f"random: the argument is a number of steps, got {argument!r}")
        return cls(steps=int(argument))

    async def run(self, episode: Episode) -> None:
        dice = random.Random(f"{self.seed}/{episode.task.id}/{getattr(episode, 'attempt', 0)}")
        tools = [tool for tool in episode.tools if tool.name != "submit"]
        shell = not tools or any(tool.name in ("bash", "shell") for tool in tools)
        for _ in range(self.steps):
            if episode.done:
                return
            await episode.act(dice.choice(COMMANDS) if shell else _call(dice, dice.choice(tools)))
        if not episode.done:
            await episode.submit()


def _call(dice: random.Random, tool: ToolSchema) -> Action:
    properties: dict[str, Any] = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", list(properties))
    return {
        "name": tool.name,
        "arguments": {key: draw(dice, properties[key]) for key in required if key in properties},
    }


def draw(dice: random.Random, schema: dict[str, Any]) -> Any:
    """A random value of a JSON schema: enumerations, plain types, arrays and objects."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return dice.choice(schema["enum"])
    if "anyOf" in schema:
        return draw(dice, dice.choice(schema["anyOf"]))
    match schema.get("type", "string"):
        case "boolean":
            return dice.random() < 0.5
        case "integer":
            low = schema.get("minimum", 0)
            return dice.randint(low, schema.get("maximum", low + 9))
        case "number":
            low = schema.get("minimum", 0.0)
            return dice.uniform(low, schema.get("maximum", low + 1.0))
        case "array":
            return [draw(dice, schema.get("items", {})) for _ in range(dice.randint(0, 2))]
        case "object":
            return {k: draw(dice, v) for k, v in schema.get("properties", {}).items()}
        case "null":
            return None
    return dice.choice(["a", "b", "note", "42", ""])
