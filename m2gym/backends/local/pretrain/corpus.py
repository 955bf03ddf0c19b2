"""The corpus: seeded transcripts in which tools of invented formats are shown and used.

A document is one conversation in M2's format, cut at the row's length. Of a hundred, 78 are worlds
(one or two tools, as many questions as fit, so that every number of examples is trained), 10 are
tools declared as JSON schemas and called in M2's own way, 12 are plain talk: sums, copying,
reading. The loss is on the assistant's tokens; a mistaken call that is then corrected has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2gym.core.tools import ToolSchema
from m2gym.models.chat_format import Mark, TurnFormat
from m2gym.models.minimax_m2 import BEGIN, END, MARKS, THINK, THOUGHT, TURN, MiniMaxM2
from m2gym.models.nano.vocabulary import PIECES, SYSTEM
from m2gym.models.tokenizer import HfTokenizer
from m2gym.tasksets.tool_worlds.words import word
from m2gym.tasksets.tool_worlds.world import BROKEN, Episode, Novelty, Tool, World

VERSION = 2
"""Of the corpus: changed whenever the same seed gives other documents."""

TRAINED = 1 << 15
"""Bit of a token in a row that is in the loss."""

WORLDS, NATIVE = 0.78, 0.10
MISTAKES, ASIDES = 0.04, 0.03
"""Shares of documents, and of turns in a world's: the project's choice."""

CACHE = 1 << 18
BEFORE = ("use {0}", "use {0}", "{0} can tell", "call {0}")
AFTER = ("done", "done", "that is it", "so it is")
"""What is thought before a call and before an answer; one of each a document."""


class Encoder:
    """Text to ids by pieces that are remembered: the tokenizer's own result, faster."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = HfTokenizer(tokenizer)
        self.format = MiniMaxM2(self.tokenizer)
        self.ids: dict[str, int] = {}
        for mark in MARKS:
            id = self.tokenizer.special(mark)
            assert id is not None
            self.ids[str(mark)] = id
        self._pieces = re.compile(PIECES)
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        if len(self._known) > CACHE:
            self._known.clear()
        out: list[int] = []
        for piece in self._pieces.findall(text):
            ids = self._known.get(piece)
            if ids is None:
                ids = self._known[piece] = self.tokenizer.encode(piece)
            out += ids
        return out


@dataclass
class Span:
    """Tokens of a row that are a call, with the examples of its tool before it in the row."""

    first: int
    end: int
    shots: int
    tools: int


@dataclass
class Document:
    """A row in the making: ids, which of them are trained, where calls stand."""

    encoder: Encoder
    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def add(self, pieces: Iterable[str], trained: bool = False) -> None:
        """Pieces of the format: marks are tokens, neighbouring texts one text."""
        before = len(self.ids)
        text: list[str] = []
        for piece in pieces:
            if not isinstance(piece, Mark):
                text.append(piece)
                continue
            if text:
                self.ids += self.encoder("".join(text))
                text.clear()
            self.ids.append(self.encoder.ids[str(piece)])
        if text:
            self.ids += self.encoder("".join(text))
        self.trained += [trained] * (len(self.ids) - before)

    def begin(self, system: str | None) -> None:
        self.add((BEGIN, TURN, "system\n", system or SYSTEM, END, "\n"))

    def user(self, text: str) -> None:
        self.add((TURN, "user\n", text, END, "\n"))

    def answer(self, thinking: str, text: str, trained: bool = True) -> tuple[int, int]:
        """An assistant's turn; where its text stands (up to the end mark, which counts)."""
        self.add((TURN, "ai\n", THINK, "\n"))
        self.add((thinking, "\n", THOUGHT, "\n\n"), trained)
        first = len(self.ids)
        self.add((text, END), trained)
        end = len(self.ids)
        self.add(("\n",))
        return first, end

    def tool(self, text: str) -> None:
        self.add((TURN, "tool", "\n<response>", text, "</response>", END, "\n"))

    def row(self, length: int) -> NDArray[np.uint16]:
        """The first ``length`` tokens, those in the loss with the bit `TRAINED`."""
        ids = np.array(self.ids[:length], np.uint16)
        return np.where(np.array(self.trained[:length]), ids | TRAINED, ids).astype(np.uint16)


def document(random: Random, encoder: Encoder, length: int) -> Document:
    """A document of at least ``length`` tokens, by chance."""
    kind = random.random()
    if kind < WORLDS:
        tools = 1 if random.random() < 0.6 else 2
        world = World.draw(random, tools=tools, declared=random.random() < 0.5)
        return world_document(random, encoder, length, world)
    made = Document(encoder)
    if kind < WORLDS + NATIVE:
        _native(random, made, length)
        return made
    made.begin(None)
    while len(made.ids) < length:
        _aside(random, made)
    return made


def world_document(
    random: Random, encoder: Encoder, length: int, world: World, *, plain: bool = False
) -> Document:
    """Questions of one world, each done; ``plain``: without mistakes and asides."""
    made = Document(encoder)
    before, after = (
        (random.choice(BEFORE), random.choice(AFTER)) if not plain else ("use {0}", "done")
    )
    shown: dict[str, int] = {}
    made.begin(world.system)
    while len(made.ids) < length:
        if not plain and random.random() < ASIDES:
            _aside(random, made)
            continue
        episode = world.episode(random)
        made.user(episode.question)
        name = episode.tool.name
        if not plain and random.random() < MISTAKES:
            wrong = world.mistaken(random, episode)
            if wrong is not None:
                made.answer(before.format(name), wrong, trained=False)
                made.tool(BROKEN)
        first, end = made.answer(before.format(name), episode.call)
        made.spans.append(Span(first, end, shown.get(name, 0), len(world.tools)))
        shown[name] = shown.get(name, 0) + 1
        made.tool(episode.answer)
        made.answer(after, episode.answer)
    return made


def schema(tool: Tool) -> ToolSchema:
    """A tool of a world as a JSON schema."""
    return ToolSchema(
        name=tool.name,
        description=tool.kind.name,
        parameters={
            "type": "object",
            "properties": {key: {"type": "string"} for key in tool.keys},
            "required": list(tool.keys),
        },
    )


def native_call(tool: Tool, episode: Episode) -> dict[str, Any]:
    """An episode's call as a message holds it."""
    said = {key: episode.arguments[role] for key, role in zip(tool.keys, tool.order, strict=True)}
    function = {"name": tool.name, "arguments": json.dumps(said)}
    return {"type": "function", "id": "call_0", "function": function}


def _native(random: Random, made: Document, length: int) -> None:
    world = World.draw(random, tools=random.choice((1, 1, 2)))
    format: TurnFormat = made.encoder.format
    before, after = random.choice(BEFORE), random.choice(AFTER)
    made.add(format.head(None, [schema(tool) for tool in world.tools]))
    while len(made.ids) < length:
        episode = world.episode(random)
        made.user(episode.question)
        message = {
            "role": "assistant",
            "content": "",
            "reasoning_content": before.format(episode.tool.name),
            "tool_calls": [native_call(episode.tool, episode)],
        }
        pieces = list(format.turns([message], 0))
        opening = len(list(format.prompt()))
        made.add(pieces[:opening])
        made.add(pieces[opening:-1], trained=True)
        made.add(pieces[-1:])
        made.tool(episode.answer)
        made.answer(after, episode.answer)


def _aside(random: Random, made: Document) -> None:
    """A question that needs no tool."""
    kind = random.randrange(4)
    if kind == 0:
        a, b = random.randrange(50), random.randrange(50)
        made.user(f"Add {a} and {b}.")
        made.answer("no tool", str(a + b))
    elif kind == 1:
        said = " ".join(word(random) for _ in range(random.choice((1, 2, 3, 4))))
        made.user(f"Say: {said}")
        made.answer("no tool", said)
    elif kind == 2:
        names = [word(random) for _ in range(random.choice((2, 3, 4)))]
        values = [str(random.randrange(10, 100)) for _ in names]
        told = " ".join(f"{name} is {value}." for name, value in zip(names, values, strict=True))
        n = random.randrange(len(names))
        made.user(f"{told} What is {names[n]}?")
        made.answer("no tool", values[n])
    else:
        names = [word(random) for _ in range(random.choice((2, 3, 4)))]
        n = random.randrange(len(names) - 1)
        made.user(f"In {', '.join(names)}: what follows {names[n]}?")
        made.answer("no tool", names[n + 1])


def rows(encoder: Encoder, seed: int, number: int, count: int, length: int) -> NDArray[np.uint16]:
    """Batch ``number``: ``count`` documents of ``length`` tokens; the same wherever it is made."""
    random = Random(f"{VERSION}/{seed}/{number}")
    return np.stack([document(random, encoder, length).row(length) for _ in range(count)])


def probe_rows(
    encoder: Encoder, seed: int, count: int, length: int, novelty: Novelty
) -> tuple[NDArray[np.uint16], list[list[Span]]]:
    """Documents of held-out worlds, half of them with two tools, and where their calls stand."""
    random = Random(f"{VERSION}/probe/{seed}/{novelty}")
    found = []
    for n in range(count):
        world = World.draw(random, novelty=novelty, tools=1 + n % 2)
        found.append(world_document(random, encoder, length, world, plain=True))
    spans = [[s for s in made.spans if s.end <= length] for made in found]
    return np.stack([made.row(length) for made in found]), spans


def texts(seed: int, count: int) -> Iterable[str]:
    """Questions, calls and answers for a tokenizer to be trained on."""
    random = Random(f"{VERSION}/texts/{seed}")
    for _ in range(count):
        world = World.draw(random, tools=2)
        for _ in range(3):
            episode = world.episode(random)
            yield f"user\n{world.system}\n{episode.question}"
            yield f"ai\n{random.choice(BEFORE).format(episode.tool.name)}\n\n{episode.call}"
            yield f"tool\n<response>{episode.answer}</response>\n{random.choice(AFTER)}"
        if random.random() < 0.2:
            yield str(schema(world.tools[0]).openai())
            yield SYSTEM + " no tool Add and Say In what follows is system user"
