"""Tool calls found in generated text. What is broken comes back as data: an agent's next turn, and
a reward for well-formed calls, need to know of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from m2gym.core.tools import ToolSchema
from m2gym.models.messages import Message, assistant
from m2gym.models.schema_cast import cast, strict_json

INVOKE, INVOKED = '<invoke name="', "</invoke>"
PARAMETER, GIVEN = '<parameter name="', "</parameter>"
FENCE = "```"
LANGUAGES = ("", "json", "tool_call", "tool", "tool_code")
"""What may stand behind an opening fence."""

# All searches go forward by `str.find`: hostile text costs no more than its length.


@dataclass
class Found:
    """What a text holds: calls as (name, JSON arguments), the text around them, what was broken."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    malformed: list[dict[str, str]] = field(default_factory=list)

    def broken(self, text: str, problem: str) -> None:
        """Note a malformed call; its text stays in the answer."""
        self.malformed.append({"text": text, "problem": problem})

    def message(self, thinking: str = "") -> Message:
        """As an assistant's message; ``malformed`` where something was."""
        calls = [(f"call_{n}", *call) for n, call in enumerate(self.calls)]
        said = assistant(self.text, thinking=thinking, calls=calls)
        if self.malformed:
            said["malformed"] = self.malformed
        return said


def blocks(text: str, begin: str, end: str) -> tuple[str, list[tuple[str, bool]]]:
    """Text outside ``begin … end`` blocks, and the blocks with whether they were closed."""
    outside: list[str] = []
    inside: list[tuple[str, bool]] = []
    at = 0
    while (start := text.find(begin, at)) >= 0:
        outside.append(text[at:start])
        start += len(begin)
        stop = text.find(end, start)
        if stop < 0:
            inside.append((text[start:], False))
            return "".join(outside), inside
        inside.append((text[start:stop], True))
        at = stop + len(end)
    outside.append(text[at:])
    return "".join(outside), inside


def xml_calls(text: str, begin: str, end: str, tools: Sequence[ToolSchema] | None) -> Found:
    """``<invoke name=…><parameter name=…>value</parameter></invoke>`` in blocks; several are
    parallel calls."""
    outside, inside = blocks(text, begin, end)
    found = Found(outside.rstrip("\n"))
    schemas = {tool.name: tool.parameters for tool in tools or ()}
    for block, closed in inside:
        around, invokes = blocks(block, INVOKE, INVOKED)
        whole = [head for head, ended in invokes if ended]
        for head in whole:
            name, quoted, body = head.partition('">')
            pairs = _parameters(body) if quoted and name else None
            if pairs is None:
                found.broken(
                    f"{INVOKE}{head}{INVOKED}", "an invoke has a name and holds parameters only"
                )
            else:
                found.calls.append((name, _arguments(pairs, schemas.get(name))))
        cut = not closed and (len(whole) < len(invokes) or around.strip() or not whole)
        if cut:
            found.broken(begin + block, "the call is cut off")
        elif closed and (around.strip() or len(whole) < len(invokes)):
            found.broken(begin + block + end, "text between the calls of a block")
    if found.malformed:
        found.text = "\n".join(part for part in (found.text, *_texts(found)) if part)
    return found


def _texts(found: Found) -> Iterable[str]:
    return (item["text"] for item in found.malformed)


def _parameters(body: str) -> list[tuple[str, str]] | None:
    """Names and texts of ``<parameter name="k">v</parameter>`` one after the other, or ``None``.

    A value ends at a closing tag that another parameter or the end follows, so that it may hold
    such tags itself.
    """
    pairs = []
    at = _skip(body, 0)
    while at < len(body):
        if not body.startswith(PARAMETER, at):
            return None
        start = body.find('">', at)
        if start < 0:
            return None
        name, start = body[at + len(PARAMETER) : start], start + 2
        stop = body.find(GIVEN, start)
        while stop >= 0:
            at = _skip(body, stop + len(GIVEN))
            if at == len(body) or body.startswith(PARAMETER, at):
                break
            stop = body.find(GIVEN, stop + 1)
        if stop < 0:
            return None
        pairs.append((name, body[start:stop]))
    return pairs


def _skip(text: str, at: int) -> int:
    """Where white space from ``at`` on ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _arguments(pairs: Iterable[tuple[str, str]], schema: Mapping[str, Any] | None) -> str:
    properties = (schema or {}).get("properties") or {}
    values = {key: cast(text, properties.get(key), schema or {}) for key, text in pairs}
    return json.dumps(values, ensure_ascii=False)


def json_blocks(text: str, begin: str, end: str) -> Found:
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``."""
    outside, inside = blocks(text, begin, end)
    found = Found(outside.strip("\n"))
    for block, closed in inside:
        try:
            calls = _calls_of(strict_json(block.strip()))
        except (ValueError, RecursionError) as error:
            calls, problem = [], f"not JSON: {error}" if closed else "the call is cut off"
        else:
            problem = "expected an object with a name and arguments"
        if calls:
            found.calls += calls
        else:
            found.broken(begin + block + (end if closed else ""), problem)
    if found.malformed:
        found.text = "\n".join(part for part in (found.text, *_texts(found)) if part)
    return found


def loose_calls(text: str, tools: Sequence[ToolSchema] | None) -> Found | None:
    """Calls without their tags: a text that is one JSON object (or a list of them), or fenced ones.

    Only names that were offered count, so that an answer in JSON stays an answer; ``None`` where
    nothing does.
    """
    known = None if tools is None else {tool.name for tool in tools}
    bare = text.strip()
    if bare[:1] in "{[" and bare:
        calls = _loose(bare, known)
        if calls:
            return Found("", calls)
    found = Found()
    kept: list[str] = []
    parts = text.split(FENCE)
    for n, part in enumerate(parts):
        if n % 2 == 0:
            kept.append(part)
            continue
        language, line, body = part.partition("\n")
        closed = n + 1 < len(parts)
        calls = _loose(body, known) if closed and line and language.strip() in LANGUAGES else []
        found.calls += calls
        if not calls:
            kept.append(FENCE + part + (FENCE if closed else ""))
    found.text = "".join(kept).strip("\n")
    return found if found.calls else None


def _loose(text: str, known: set[str] | None) -> list[tuple[str, str]]:
    try:
        calls = _calls_of(strict_json(text.strip()))
    except (ValueError, RecursionError):
        return []
    if known is not None and any(name not in known for name, _ in calls):
        return []
    return calls


def _calls_of(value: Any) -> list[tuple[str, str]]:
    """Calls that a JSON value stands for; empty when one of them is none."""
    items = value if isinstance(value, list) else [value]
    calls = []
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("function"), Mapping):
            item = item["function"]
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            return []
        keys = [key for key in ("arguments", "parameters") if key in item]
        if not keys or not item["name"]:
            return []
        given = item[keys[0]]
        if isinstance(given, str):
            try:
                given = strict_json(given)
            except (ValueError, RecursionError):
                return []
        if not isinstance(given, Mapping):
            return []
        calls.append((item["name"], json.dumps(given, ensure_ascii=False)))
    return calls
