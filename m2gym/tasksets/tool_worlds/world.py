"""A world: its tools, how they are called, questions that need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random
from typing import Literal

from m2gym.tasksets.tool_worlds.kinds import INVENTED, KINDS, Kind, invented
from m2gym.tasksets.tool_worlds.syntax import Syntax, draw_syntax
from m2gym.tasksets.tool_worlds.words import held_out, word

Novelty = Literal["none", "combination", "unseen"]
"""``none``: as in training. ``combination``: seen pieces in a syntax that training never sees.
``unseen``: frame, separators and sign never seen, argument orders neither where the kind holds any
out. Words are held out in both."""

INVENTED_SHARE = 5
"""Invented kinds for every seven of `KINDS`; the project's choice."""

BROKEN = "error"
"""What a world answers to a call that it cannot read."""


@dataclass(frozen=True)
class Tool:
    """A tool: ``order`` lists roles as they stand in a call, ``keys`` are named in that order."""

    name: str
    kind: Kind
    order: tuple[int, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Episode:
    """A question and all that follows when it is done right."""

    tool: Tool
    arguments: tuple[str, ...]
    question: str
    call: str
    answer: str


@dataclass(frozen=True)
class World:
    """See the module of the package.

    Attributes:
        tools: one or more.
        syntax: of all calls.
        salt: what answers follow from.
        declared: whether the prompt names the tools (their names only).
        held: whether questions are made of held-out words.
    """

    tools: tuple[Tool, ...]
    syntax: Syntax
    salt: str
    declared: bool = True
    held: bool = False

    @classmethod
    def draw(
        cls,
        random: Random,
        *,
        novelty: Novelty = "none",
        tools: int = 1,
        declared: bool = True,
        kinds: Sequence[str] | None = None,
    ) -> World:
        """A world by chance; ``kinds`` limits what its tools do (`KINDS`, ``invented``)."""
        held = novelty != "none"
        names = list(kinds or (*KINDS, *(INVENTED for _ in range(INVENTED_SHARE))))
        chosen = random.sample(names, min(tools, len(names)))
        made = tuple(_tool(random, _kind(random, name, held), novelty) for name in chosen)
        while True:
            syntax = draw_syntax(random, held=novelty == "unseen")
            key = "\x1f".join((*syntax.pieces, *(str(tool.order) for tool in made)))
            if novelty == "unseen" or held_out(key) == held:
                salt = f"{random.getrandbits(48):x}"
                return cls(made, syntax, salt, declared, held)

    @property
    def system(self) -> str | None:
        """What the prompt says of the tools."""
        if not self.declared:
            return None
        return f"Tools: {', '.join(tool.name for tool in self.tools)}."

    def episode(self, random: Random, tool: int | None = None) -> Episode:
        """A question by chance; about tool number ``tool`` where one is wanted."""
        chosen = random.choice(self.tools) if tool is None else self.tools[tool]
        arguments = chosen.kind.draw(random, self.held)
        return Episode(
            chosen,
            arguments,
            random.choice(chosen.kind.questions).format(*arguments),
            self.call(chosen, arguments),
            chosen.kind.answer(self.salt + chosen.name, arguments),
        )

    def call(self, tool: Tool, arguments: Sequence[str]) -> str:
        """The call of a tool with arguments in the order of its roles."""
        said = [arguments[role] for role in tool.order]
        return self.syntax.write(tool.name, list(zip(tool.keys, said, strict=True)))

    def run(self, text: str) -> str | None:
        """What a call answers; ``None`` where ``text`` is no call of this world."""
        for tool in self.tools:
            values = self.syntax.parse(text, tool.name, tool.keys)
            if values is None:
                continue
            arguments = tuple(values[tool.order.index(role)] for role in range(len(values)))
            numbers = [
                value
                for role, value in zip(tool.kind.roles, arguments, strict=True)
                if role in ("a", "b", "amount")
            ]
            if all(value.isdecimal() for value in numbers):
                return tool.kind.answer(self.salt + tool.name, arguments)
        return None

    def mistaken(self, random: Random, episode: Episode) -> str | None:
        """A wrong call of an episode, such as a novice makes; ``None`` where none was found."""
        tool = episode.tool
        others = [o for o in permutations(tool.order) if o != tool.order]
        if others and random.random() < 0.5:
            wrong = replace(tool, order=random.choice(others))
            return self.call(wrong, episode.arguments)
        other = replace(self, syntax=draw_syntax(random))
        text = other.call(tool, episode.arguments)
        return None if text == episode.call else text


def _kind(random: Random, name: str, held: bool) -> Kind:
    return invented(random, held) if name == INVENTED else KINDS[name]


def _tool(random: Random, kind: Kind, novelty: Novelty) -> Tool:
    orders = list(permutations(range(len(kind.roles))))
    known = [order for order in orders if order not in kind.held_orders]
    unseen = novelty == "unseen" and bool(kind.held_orders)
    order = random.choice(kind.held_orders if unseen else known)
    held = novelty != "none"
    own = random.random() < 0.5
    keys = tuple(word(random, held) if own else kind.roles[role] for role in order)
    return Tool(word(random, held), kind, order, keys)
