"""ChatML with Hermes' tool calls: Qwen, Hermes, SmolLM2 and many others.

    <|im_start|>system\\n…<|im_end|>\\n<|im_start|>user\\n…<|im_end|>\\n<|im_start|>assistant\\n…

Calls: ``<tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call>``; results:
``<tool_response>\\n…\\n</tool_response>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from m2gym.core.tools import ToolSchema
from m2gym.models.chat_format import Mark, Messages, TurnFormat, text_only
from m2gym.models.minimax_m2 import THINK, THOUGHT, call_parts
from m2gym.models.tokenizer import Tokenizer
from m2gym.models.tool_parsing import Found, json_blocks

START, END = Mark("<|im_start|>"), Mark("<|im_end|>")
CALL, CALLED = Mark("<tool_call>"), Mark("</tool_call>")
RESULT, RESULTED = Mark("<tool_response>"), Mark("</tool_response>")
MARKS = (START, END, THINK, THOUGHT, CALL, CALLED, RESULT, RESULTED)

BEFORE_TOOLS = "# Tools\n\nThese functions can be called, given as JSON schemas:\n<tools>\n"
AFTER_TOOLS = (
    "</tools>\n\nA call is a JSON object with the function's name and its arguments, between tags; "
    "several calls stand one after the other:\n"
)
EXAMPLE = '\n{"name": "function", "arguments": {"key": "value"}}\n'


class ChatML(TurnFormat):
    """See the module.

    Args:
        system: the system message where a conversation has none; without one there is no turn.
        tool_role: the turn of tools' results: ``tool`` (Hermes) or ``user`` (Qwen).
        thinking: whether an answer begins in thinking (``<think>`` ends the prompt).
    """

    end = END
    marks = MARKS

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        keep_thinking: bool = True,
        system: str | None = None,
        tool_role: str = "tool",
        thinking: bool = False,
    ) -> None:
        super().__init__(tokenizer, keep_thinking=keep_thinking)
        self.system, self.tool_role, self.thinking = system, tool_role, thinking

    def head(self, system: str | None, tools: Sequence[ToolSchema]) -> Iterator[str]:
        said = self.system if system is None else system
        if said is None and not tools:
            return
        yield from (START, "system\n", said or "")
        if tools:
            yield "\n\n" if said else ""
            yield BEFORE_TOOLS
            for tool in tools:
                yield json.dumps(tool.openai(), ensure_ascii=False) + "\n"
            yield from (AFTER_TOOLS, CALL, EXAMPLE, CALLED)
        yield from (END, "\n")

    def turns(self, messages: Messages, thinking_from: int) -> Iterator[str]:
        for n, message in enumerate(messages):
            role = message["role"]
            if role == "tool":
                if n == 0 or messages[n - 1]["role"] != "tool":
                    yield from (START, self.tool_role)
                yield from ("\n", RESULT, "\n", text_only(message), "\n", RESULTED)
                if n + 1 == len(messages) or messages[n + 1]["role"] != "tool":
                    yield from (END, "\n")
                continue
            yield from (START, role, "\n")
            thinking = message.get("reasoning_content")
            if thinking and n >= thinking_from:
                yield from (THINK, "\n", thinking, "\n", THOUGHT, "\n\n")
            yield text_only(message)
            for k, call in enumerate(message.get("tool_calls", ())):
                name, arguments = call_parts(call)
                said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
                yield "\n" if k or message.get("content") else ""
                yield from (CALL, f"\n{said}\n", CALLED)
            yield from (END, "\n")

    def prompt(self) -> Iterator[str]:
        yield from (START, "assistant\n")
        if self.thinking:
            yield from (THINK, "\n")

    def find(self, text: str, tools: Sequence[ToolSchema] | None) -> tuple[str, Found]:
        thinking = ""
        if self.thinking or text.lstrip().startswith(THINK):
            before, closed, rest = text.partition(THOUGHT)
            if not closed:
                before, called, rest = text.partition(CALL)
                rest = called + rest
            thinking = before.lstrip().removeprefix(THINK).strip("\n")
            text = rest.lstrip("\n")
        return thinking, json_blocks(text, CALL, CALLED)
