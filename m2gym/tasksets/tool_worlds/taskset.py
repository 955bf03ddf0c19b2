"""Questions of one world as tasks, and the prompts that show its tools by examples.

A task's id says all of it: ``world/number``; what the examples are follows from it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.task import Limits, RewardSpec, Task
from m2gym.tasksets.memory import ListTaskset
from m2gym.tasksets.tool_worlds.world import Episode, Novelty, World

RESPONSE = "response.txt"
CORRECT, PARSES = 0.8, 0.2
"""Shares of a call's reward: what it answers is right, and it is a call of this world. ICRL's."""

LIMITS = Limits(steps=4, seconds=120, exec_seconds=5, memory_mb=128, disk_mb=8)
WORLD = 34
"""The world shown unless another is named: m2-nano writes its calls from three examples, and
without any they are about as guessable (10 nats) as learning by a curriculum needs."""

TEST_FROM = 100_000
"""Numbers of the held-out questions begin here."""


@dataclass(frozen=True)
class Questions:
    """Questions of a world, each known by its number.

    Attributes:
        number: the world's; the same number and settings give the same world everywhere.
        novelty, tools, kinds: see `World.draw`.
        declared: whether prompts name the tools.
    """

    number: int = WORLD
    novelty: Novelty = "combination"
    tools: int = 1
    kinds: tuple[str, ...] = ("lookup", "search", "shell", "minus")
    declared: bool = True

    def world(self) -> World:
        """The world."""
        random = Random(f"world/{self.number}/{self.novelty}/{self.tools}")
        return World.draw(
            random,
            novelty=self.novelty,
            tools=self.tools,
            kinds=self.kinds or None,
            declared=self.declared,
        )

    def episode(self, world: World, question: int) -> Episode:
        """Question number ``question``; tools take turns."""
        random = Random(f"question/{self.number}/{question}")
        return world.episode(random, question % len(world.tools))

    def examples(self, world: World, question: int, shots: int) -> list[Episode]:
        """``shots`` examples of every tool, in an order by chance; never the question itself."""
        random = Random(f"examples/{self.number}/{question}")
        asked = self.episode(world, question).call
        found: list[Episode] = []
        for tool in range(len(world.tools)):
            mine: list[Episode] = []
            while len(mine) < shots:
                example = world.episode(random, tool)
                if example.call != asked:
                    mine.append(example)
            found += mine
        random.shuffle(found)
        return found

    def messages(self, world: World, question: int, shots: int) -> list[dict[str, Any]]:
        """The prompt of a question: the system's words, examples as turns, the question."""
        found: list[dict[str, Any]] = []
        if world.system is not None:
            found.append({"role": "system", "content": world.system})
        for example in self.examples(world, question, shots):
            found += turns(example)
        found.append({"role": "user", "content": self.episode(world, question).question})
        return found


def turns(example: Episode) -> list[dict[str, Any]]:
    """An example as turns of a chat: question, call, what the tool says, answer."""
    return [
        {"role": "user", "content": example.question},
        {
            "role": "assistant",
            "reasoning_content": f"use {example.tool.name}",
            "content": example.call,
        },
        {"role": "tool", "content": example.answer},
        {"role": "assistant", "reasoning_content": "done", "content": example.answer},
    ]


def call_reward(world: World, episode: Episode, text: str) -> tuple[float, float]:
    """Reward of a call's text (`CORRECT` and `PARSES`), and whether it is right.

    The text is the answer alone, never the prompt.
    """
    told = world.run(text)
    right = told == episode.answer
    return CORRECT * right + PARSES * (told is not None), float(right)


def tool_worlds(
    *,
    world: int = WORLD,
    novelty: Novelty = "combination",
    tools: int = 1,
    kinds: Sequence[str] = Questions.kinds,
    questions: int = 256,
) -> ListTaskset:
    """Questions of one world: ``questions`` to train on, as many held out.

    Raises:
        InputError: no question, no such novelty, a world that is no number.
    """
    if novelty not in ("none", "combination", "unseen"):
        raise InputError(f"novelty is none, combination or unseen, got {novelty!r}")
    if not isinstance(world, int) or world < 0:
        raise InputError(f"world is a number from 0, got {world!r}")
    if questions < 1 or tools < 1:
        raise InputError(f"questions and tools are at least 1, got {questions} and {tools}")
    asked = Questions(world, novelty, tools, tuple(kinds))
    made = asked.world()
    tasks = []
    for split, first in (("train", 0), ("test", TEST_FROM)):
        for n in range(first, first + questions):
            episode = asked.episode(made, n)
            tasks.append(
                Task(
                    id=f"world-{world}/{n}",
                    instruction=episode.question,
                    artifacts=(RESPONSE,),
                    rewards=(RewardSpec(name="answer", parameters={"expected": episode.answer}),),
                    limits=LIMITS,
                    metadata={"split": split, "number": n, "settings": vars(asked)},
                )
            )
    return ListTaskset("tool-worlds", tasks)


def questions_of(task: Task) -> Questions:
    """The questions a task is one of."""
    settings = dict(task.metadata["settings"])
    return Questions(**{**settings, "kinds": tuple(settings["kinds"])})
