"""``icrl``: tools by tags in the text, with worked examples in the prompt [ICRL, arXiv 2603.08068].

    examples, question ─► … <search>query</search> ─► <information>…</information> ─► …
                                                                    <answer>…</answer>

An answer is cut at the first closing tag of a tool or of the answer. What a tool gives comes back
in a turn of its own: the released code goes on in the same turn, but a chat format keeps them
apart, and the environment's tokens are masked all the same. What is neither a call nor an answer
gets a fixed corrective message. After the tool turns one answer more is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from m2gym.core.errors import EpisodeOverError, InputError
from m2gym.core.protocols import Episode, ModelRequest, Sampling
from m2gym.core.trajectory import Trajectory
from m2gym.scaffolds.icrl_examples import EXAMPLES

ARGUMENTS = {"search": "query", "python": "code", "calculator": "expression"}
"""Tag of a tool → the argument that stands in it."""

INSTRUCTIONS = """\
Answer the question. Think between <think> and </think> first. Whenever it helps, use a tool by \
writing its tag; what it gives stands between <information> and </information>. Give the answer, \
as short as it can be, between <answer> and </answer>.

Tools:
{tools}"""

DESCRIBED = {
    "search": "<search>words</search> finds passages",
    "python": "<python>program</python> runs a program and shows what it prints",
    "calculator": "<calculator>expression</calculator> gives the value of an expression",
}

CORRECTION = (
    "That was neither a tool call nor an answer. Write one tool's tag, or the answer between "
    "<answer> and </answer>."
)

TAGS = (*ARGUMENTS, "answer", "information", "think")
"""Tags of prompts, examples and turns; an agent may have names of its own for them."""

RE = re.DOTALL | re.MULTILINE

LAST = "No tool can be used any more. Give the answer between <answer> and </answer>."


@dataclass
class Icrl:
    """See the module.

    Attributes:
        shots: worked examples in the prompt; several numbers are a curriculum, each for
            ``stage_updates`` updates of a training run (published: 3, 2, 0 for 100 each).
        turns: tool turns before the last answer.
        examples: where they stand: in the prompt's text (published), or as turns of the chat before
            the question, which models too small to read a long prompt still go on with.
        thinking: whether examples think aloud.
        tools: tools that are offered; all that the task has when left out.
        instructions, correction, last: what the prompt begins with (``{tools}`` describes the
            tools), what follows an invalid turn, and what follows the last tool turn.
        tags: own names of `TAGS`, such as ``{"answer": "final"}``, in all that the model reads and
            writes; the task's rewards see the usual ones.
    """

    shots: int | Sequence[int] = 0
    stage_updates: int = 100
    turns: int = 6
    examples: Literal["prompt", "turns"] = "prompt"
    thinking: bool = True
    tools: Sequence[str] | None = None
    instructions: str = INSTRUCTIONS
    correction: str = CORRECTION
    last: str = LAST
    tags: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default="icrl", init=False)
    uses_model: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        self.shots = (self.shots,) if isinstance(self.shots, int) else tuple(self.shots)
        if not self.shots or min(self.shots) < 0:
            raise InputError(f"icrl: shots is a number from 0 or several, got {self.shots}")
        if max(self.shots) > len(EXAMPLES):
            raise InputError(f"icrl: there are {len(EXAMPLES)} examples, got shots={self.shots}")
        if self.examples not in ("prompt", "turns"):
            raise InputError(f"icrl: examples is prompt or turns, got {self.examples!r}")
        unknown = sorted({*(self.tools or ())} - {*ARGUMENTS})
        if unknown:
            raise InputError(f"icrl: unknown tool {unknown[0]!r}; known: {', '.join(ARGUMENTS)}")
        check_tags(self.tags)
        if self.turns < 0 or self.stage_updates < 1:
            raise InputError(
                f"icrl: turns is at least 0 and stage_updates 1, got {self.turns} and "
                f"{self.stage_updates}"
            )

    @classmethod
    def from_argument(cls, argument: str) -> Icrl:
        """From the number of examples."""
        if not argument.isdigit():
            raise InputError(f"icrl: the argument is a number of examples, got {argument!r}")
        return cls(shots=int(argument))

    def at_update(self, update: int) -> Icrl:
        """The agent of the curriculum's stage in which ``update`` lies."""
        assert not isinstance(self.shots, int)
        stage = min(update // self.stage_updates, len(self.shots) - 1)
        return replace(self, shots=self.shots[stage])

    async def run(self, episode: Episode) -> None:
        session = episode.session
        if session is None:
            raise InputError("icrl calls a model: the episode has no session")
        offered = ARGUMENTS if self.tools is None else self.tools
        tools = [t.name for t in episode.tools if t.name in ARGUMENTS and t.name in offered]
        stop = tuple(named(f"</{tag}>", self.tags) for tag in (*tools, "answer"))
        messages: list[dict[str, Any]] = self.opening(episode, tools)
        response: list[str] = []
        for turn in range(self.turns + 1):
            request = ModelRequest(messages=messages, sampling=Sampling(stop=stop))
            said = (await session.complete(request)).message
            text = spoken(said, stop, self.tags)
            response.append(text)
            found = call_in(text, (*tools, "answer"))
            if found is not None and found[0] == "answer":
                break
            told = await self._told(episode, found)
            if told is None:
                return
            if turn + 1 == self.turns:
                told = f"{told}\n{named(self.last, self.tags)}"
            messages += [said, {"role": "user", "content": told}]
        await episode.act({"name": "answer", "arguments": {"response": "\n".join(response)}})

    def opening(self, episode: Episode, tools: Sequence[str]) -> list[dict[str, Any]]:
        """Instructions, examples and the question; the same for all attempts at a task."""
        assert not isinstance(self.shots, int)
        known = [example for tool, example in EXAMPLES if tool in tools]
        dice = np.random.default_rng(list(episode.task.id.encode()))
        chosen = [known[n] for n in dice.permutation(len(known))[: self.shots[0]]]
        if not self.thinking:
            chosen = [re.sub(r"<think>.*?</think>\n", "", e, flags=re.DOTALL) for e in chosen]
        described = "\n".join(DESCRIBED[tool] for tool in tools)
        chosen = [named(example, self.tags) for example in chosen]
        head = named(self.instructions.replace("{tools}", described), self.tags)
        question = f"Question: {episode.task.instruction}"
        if self.examples == "prompt":
            return [{"role": "user", "content": "\n\n".join([head, *chosen, question])}]
        information = self.tags.get("information", "information")
        messages = [m for example in chosen for m in turns_of(example, information)]
        messages.append({"role": "user", "content": question})
        messages[0]["content"] = f"{head}\n\n{messages[0]['content']}"
        return messages

    def zero_shot(
        self, messages: Sequence[dict[str, Any]], instruction: str
    ) -> list[dict[str, Any]]:
        """The opening of `messages` without its examples, for a task of that instruction."""
        head = str(messages[0]["content"]).partition("\n\nQuestion: ")[0]
        return [{"role": "user", "content": f"{head}\n\nQuestion: {instruction}"}]

    def finished(self, trajectory: Trajectory) -> bool:
        """Whether an answer was given in its tags."""
        last = trajectory.steps[-1].action if trajectory.steps else None
        if not isinstance(last, dict) or last.get("name") != "answer":
            return False
        return call_in(str(last["arguments"]["response"]), ["answer"]) is not None

    async def _told(self, episode: Episode, call: tuple[str, str] | None) -> str | None:
        """What the environment answers; ``None`` when the episode has ended."""
        if call is None:
            return named(self.correction, self.tags)
        tag, argument = call
        try:
            seen = await episode.act({"name": tag, "arguments": {ARGUMENTS[tag]: argument}})
        except EpisodeOverError:
            return None
        except InputError as error:
            told = str(error)
        else:
            if seen.done:
                return None
            told = seen.text.strip()
        information = self.tags.get("information", "information")
        return f"<{information}>{told}</{information}>"


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises `InputError` where own names of tags cannot be told apart."""
    unknown = sorted({*tags} - {*TAGS})
    if unknown:
        raise InputError(f"icrl: unknown tag {unknown[0]!r}; known: {', '.join(TAGS)}")
    own = [str(tags.get(tag, tag)) for tag in TAGS]
    if len({*own}) < len(own) or not all(re.fullmatch(r"[\w-]+", name) for name in own):
        raise InputError(f"icrl: tags are words, each another one, got {', '.join(own)}")


def named(text: str, tags: Mapping[str, str]) -> str:
    """A text with the agent's own names of its tags.

    >>> named("<answer>1</answer>", {"answer": "final"})
    '<final>1</final>'
    """
    either = "|".join(map(re.escape, tags))
    if not either:
        return text
    return re.sub(rf"<(/?)({either})>", lambda tag: f"<{tag[1]}{tags[tag[2]]}>", text)


def spoken(
    message: dict[str, object],
    stop: Sequence[str] = (),
    tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """A message's text under the usual names of its tags, its thinking in them; a closing tag that
    an API left off is put back. A usual name that has another one here counts for nothing.

    >>> spoken({"content": "<search>x", "reasoning_content": "why"}, ["</search>"])
    '<think>why</think>\\n<search>x</search>'
    >>> spoken({"content": "<answer>1</answer><final>2</final>"}, (), {"answer": "final"})
    '<final>1</final><answer>2</answer>'
    """
    text = str(message.get("content") or "")
    for tag in stop:
        opening = tag.replace("/", "")
        if text.rfind(opening) > text.rfind(tag):
            text += tag
            break
    text = named(text, {**tags, **{own: tag for tag, own in tags.items()}})
    thinking = message.get("reasoning_content")
    return f"<think>{thinking}</think>\n{text}" if thinking else text


def call_in(text: str, tags: Sequence[str]) -> tuple[str, str] | None:
    """The first closed tag and what stands in it.

    >>> call_in("a <search> b </search> <answer>c</answer>", ["search", "answer"])
    ('search', 'b')
    """
    either = "|".join(map(re.escape, tags))
    found = re.search(rf"<({either})>(.*?)</\1>", text, re.DOTALL)
    return None if found is None else (found[1], found[2].strip())


def turns_of(example: str, information: str = "information") -> list[dict[str, Any]]:
    """An example's text as turns of a chat; ``information`` is the tag of a tool's words.

    >>> text = "Question: q\\n<a>1</a>\\n<information>2</information>\\n<answer>3</answer>"
    >>> [m["role"] for m in turns_of(text)]
    ['user', 'assistant', 'user', 'assistant']
    """
    told = f"<{information}>.*?</{information}>"
    found = re.split(rf"\n?(^Question: .*?$|{told})\n?", example, flags=RE)
    texts = [text for text in found if text]
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
