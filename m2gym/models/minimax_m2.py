"""MiniMax-M2's chat format (arXiv 2605.26494; the rules of its published chat template).

    ]~!b[]~b]system\\n…[e~[\\n  ]~b]user\\n…[e~[\\n  ]~b]ai\\n<think>\\n…\\n</think>\\n\\n…[e~[\\n
    ]~b]tool\\n<response>…</response>\\n<response>…</response>[e~[\\n

Calls: ``<minimax:tool_call>`` with one ``<invoke name=…>`` each; strings raw, all else JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from m2gym.core.tools import ToolSchema
from m2gym.models.chat_format import Mark, Messages, TurnFormat, text_only
from m2gym.models.schema_cast import strict_json
from m2gym.models.tokenizer import HfTokenizer, Tokenizer
from m2gym.models.tool_parsing import Found, xml_calls

BEGIN, TURN, END = Mark("]~!b["), Mark("]~b]"), Mark("[e~[")
THINK, THOUGHT = Mark("<think>"), Mark("</think>")
CALLS, CALLED = Mark("<minimax:tool_call>"), Mark("</minimax:tool_call>")
MARKS = (BEGIN, TURN, END, THINK, THOUGHT, CALLS, CALLED)

SYSTEM = "You are a helpful assistant."
BEFORE_TOOLS = "\n\n# Tools\nThese tools can be called, given as JSON schemas:\n\n"
AFTER_TOOLS = (
    "\n\nA call names the tool and its parameters; several calls may stand in one block:\n\n"
    f'{CALLS}\n<invoke name="tool">\n<parameter name="key">value</parameter>\n</invoke>\n{CALLED}'
)


@dataclass(frozen=True)
class Wording:
    """Words of the system turn that the format leaves open; the project's, unless taken `of` a
    model's own template."""

    system: str = SYSTEM
    before_tools: str = BEFORE_TOOLS
    after_tools: str = AFTER_TOOLS

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Wording:
        """What the tokenizer's chat template writes there; the project's words without one."""
        if not isinstance(tokenizer, HfTokenizer) or TURN not in tokenizer.chat_template:
            return cls()
        user = {"role": "user", "content": "x"}
        tool = ToolSchema(name="probe").openai()
        with_tool = _system_turn(tokenizer.apply_template([user], [tool]))
        system = _system_turn(tokenizer.apply_template([user]))
        before, _, rest = with_tool.removeprefix(system).partition("<tools>")
        return cls(system, before, rest.partition("</tools>")[2])


def _system_turn(prompt: str) -> str:
    return prompt.partition(f"{TURN}system\n")[2].partition(str(END))[0]


class MiniMaxM2(TurnFormat):
    """See the module. Marks that the tokenizer does not have as tokens are spelt as text.

    A system message after the first turn, which the published template leaves out, is a system
    turn in its place: the project's choice.
    """

    end = END
    marks = MARKS

    def __init__(
        self, tokenizer: Tokenizer, *, keep_thinking: bool = True, wording: Wording | None = None
    ) -> None:
        super().__init__(tokenizer, keep_thinking=keep_thinking)
        self.wording = wording or Wording.of(tokenizer)

    def head(self, system: str | None, tools: Sequence[ToolSchema]) -> Iterator[str]:
        yield from (BEGIN, TURN, "system\n", system or self.wording.system)
        if tools:
            yield from (self.wording.before_tools, "<tools>\n")
            for tool in tools:
                yield f"<tool>{_json(tool.openai()['function'])}</tool>\n"
            yield "</tools>"
            yield from _marked(self.wording.after_tools)
        yield from (END, "\n")

    def turns(self, messages: Messages, thinking_from: int) -> Iterator[str]:
        for n, message in enumerate(messages):
            role = message["role"]
            if role == "assistant":
                yield from _answer(message, with_thinking=n >= thinking_from)
            elif role == "tool":
                if n == 0 or messages[n - 1]["role"] != "tool":
                    yield from (TURN, "tool")
                yield from ("\n<response>", text_only(message), "</response>")
                if n + 1 == len(messages) or messages[n + 1]["role"] != "tool":
                    yield from (END, "\n")
            else:
                yield from (TURN, role, "\n", text_only(message), END, "\n")

    def prompt(self) -> Iterator[str]:
        yield from (TURN, "ai\n", THINK, "\n")

    def find(self, text: str, tools: Sequence[ToolSchema] | None) -> tuple[str, Found]:
        thinking, closed, rest = text.partition(THOUGHT)
        if not closed:
            thinking, called, rest = text.partition(CALLS)
            rest = called + rest
        thinking = thinking.removeprefix(THINK).strip("\n")
        return thinking, xml_calls(rest.lstrip("\n"), CALLS, CALLED, tools)


def _answer(message: dict[str, Any], *, with_thinking: bool) -> Iterator[str]:
    yield from (TURN, "ai\n")
    thinking = message.get("reasoning_content")
    if thinking and with_thinking:
        yield from (THINK, "\n", thinking, "\n", THOUGHT, "\n\n")
    yield text_only(message)
    if calls := message.get("tool_calls"):
        yield from ("\n", CALLS, "\n")
        for call in calls:
            yield from _invoke(call)
        yield CALLED
    yield from (END, "\n")


def _invoke(call: dict[str, Any]) -> Iterator[str]:
    name, arguments = call_parts(call)
    yield f'<invoke name="{name}">\n'
    for key, value in arguments.items():
        said = value if isinstance(value, str) else _json(value)
        yield f'<parameter name="{key}">{said}</parameter>\n'
    yield "</invoke>\n"


def call_parts(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A call's name and arguments; what is no JSON object is one argument, ``arguments``."""
    if call["type"] == "custom":
        return call["custom"]["name"], {"input": call["custom"]["input"]}
    text = call["function"]["arguments"]
    try:
        arguments = strict_json(text)
    except (ValueError, RecursionError):
        arguments = text
    if not isinstance(arguments, dict):
        arguments = {"arguments": text}
    return call["function"]["name"], arguments


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _marked(text: str) -> Iterator[str]:
    """A text in which the format's own call marks are tokens, as in the published prompt."""
    before, found, rest = text.partition(CALLS)
    yield before
    if found:
        inside, closed, after = rest.partition(CALLED)
        yield from (CALLS, inside)
        if closed:
            yield CALLED
        yield after
