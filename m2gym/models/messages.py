"""The canonical form of messages: OpenAI's chat dictionaries with what carries no meaning dropped.

| role | keys |
|---|---|
| ``system``, ``user`` | ``content`` |
| ``assistant`` | ``content``; where there are: ``reasoning_content``, ``tool_calls``, \
``reasoning_opaque`` (a provider's signed or encrypted items, kept for its next request), \
``hosted`` (calls that the provider ran itself: ``id``, ``name``, ``input``, ``output``) |
| ``tool`` | ``tool_call_id``, ``content`` |

An answer may also have ``malformed``: calls that could not be read, as (text, problem).
``content`` is a string; a list of ``text`` and ``image_url`` blocks only where an image is among
them. Cache marks, item ids, names and empty fields are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from m2gym.core.errors import InputError

Message = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def canonical(message: Mapping[str, Any]) -> Message:
    """One message in canonical form; a new dictionary that shares only strings.

    >>> canonical({"role": "user", "content": [{"type": "text", "text": "hi",
    ...                                         "cache_control": {"type": "ephemeral"}}]})
    {'role': 'user', 'content': 'hi'}

    Raises:
        InputError: an unknown role or block, or a tool call without a name.
    """
    role = ROLES.get(str(message.get("role")))
    if role is None:
        raise InputError(
            f"a message's role is system, user, assistant or tool, got {message.get('role')!r}"
        )
    if role == "tool":
        id = str(message.get("tool_call_id") or "")
        return {"role": role, "tool_call_id": id, "content": content_of(message.get("content"))}
    out: Message = {"role": role, "content": content_of(message.get("content"))}
    if role != "assistant":
        return out
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking:
        out["reasoning_content"] = str(thinking)
    for key in ("reasoning_opaque", "hosted"):
        if items := message.get(key):
            out[key] = json.loads(json.dumps(items))
    if calls := message.get("tool_calls"):
        out["tool_calls"] = [tool_call(call) for call in calls]
    if broken := message.get("malformed"):
        out["malformed"] = [dict(item) for item in broken]
    return out


def content_of(content: object) -> str | list[dict[str, Any]]:
    """Text as a string; blocks only where an image is among them."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InputError(f"content is a string or a list of blocks, got {type(content).__name__}")
    blocks = [_block(block) for block in content]
    if all(block["type"] == "text" for block in blocks):
        return "".join(block["text"] for block in blocks)
    return blocks


def _block(block: object) -> dict[str, Any]:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if isinstance(block, Mapping):
        kind = block.get("type")
        if kind in ("text", "input_text", "output_text", "refusal"):
            return {"type": "text", "text": str(block.get("text") or block.get("refusal") or "")}
        if kind == "image_url":
            image = block.get("image_url")
            if isinstance(image, str):
                image = {"url": image}
            if isinstance(image, Mapping) and isinstance(image.get("url"), str):
                kept = {key: image[key] for key in ("url", "detail") if image.get(key)}
                return {"type": "image_url", "image_url": kept}
    raise InputError(f"a block is of type text or image_url, got {str(block)[:80]}")


def tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call in OpenAI's form, its arguments as JSON text, a free-form one's input as it is."""
    id = str(call.get("id") or "")
    inner = call.get("custom")
    if isinstance(inner, Mapping) and inner.get("name"):
        said = {"name": str(inner["name"]), "input": str(inner.get("input") or "")}
        return {"id": id, "type": "custom", "custom": said}
    inner = call.get("function")
    if not isinstance(inner, Mapping) or not inner.get("name"):
        raise InputError(f"a tool call has a function with a name, got {str(call)[:80]}")
    arguments = inner.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return {
        "id": id,
        "type": "function",
        "function": {"name": str(inner["name"]), "arguments": arguments},
    }


def canonicals(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """All of them."""
    return [canonical(message) for message in messages]


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text, images left out."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block["type"] == "text")


def call_ids(message: Mapping[str, Any]) -> list[str]:
    """Ids of the message's tool calls, in their order."""
    return [call["id"] for call in message.get("tool_calls", ())]


def call_key(call: Mapping[str, Any]) -> tuple[str, str]:
    """What a call does: its name and its arguments without regard to spaces and key order.

    A free-form call equals the function call with ``{"input": …}`` that models without them make.
    """
    if call["type"] == "custom":
        return call["custom"]["name"], json.dumps({"input": call["custom"]["input"]})
    arguments = call["function"]["arguments"]
    try:
        arguments = json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        arguments = arguments.strip()
    return call["function"]["name"], arguments


def only_adds(said: Message, echoed: Message) -> bool:
    """Whether ``echoed`` is the answer ``said``, its calls' arguments the same but for added keys.

    >>> before = assistant(calls=[("c1", "edit", '{"path": "a"}')])
    >>> only_adds(before, assistant(calls=[("c1", "edit", '{"path": "a", "all": false}')]))
    True
    """
    if message_key({**said, "tool_calls": ()}) != message_key({**echoed, "tool_calls": ()}):
        return False
    if call_ids(said) != call_ids(echoed) or not all(call_ids(said)):
        return False
    for old, new in zip(said.get("tool_calls", ()), echoed.get("tool_calls", ()), strict=True):
        if old["type"] != "function" or new["type"] != "function":
            return False
        if old["function"]["name"] != new["function"]["name"]:
            return False
        try:
            before = json.loads(old["function"]["arguments"])
            after = json.loads(new["function"]["arguments"])
        except (ValueError, RecursionError):
            return False
        if not isinstance(before, dict) or not isinstance(after, dict):
            return False
        if any(key not in after or after[key] != value for key, value in before.items()):
            return False
    return True


def message_key(message: Message, position: int | None = None) -> tuple[Any, ...]:
    """What makes a canonical message equal to another, thinking and hosted calls aside.

    Ids of calls do not count: a tool message is told by the ``position`` of its call.
    """
    content = message["content"]
    if not isinstance(content, str):
        content = json.dumps(content, sort_keys=True)
    role = message["role"]
    if role == "tool":
        return role, position, content
    if role == "assistant":
        calls = message.get("tool_calls", ())
        return role, content.strip(), tuple(call_key(call) for call in calls)
    return role, content


def assistant(
    text: str = "",
    *,
    thinking: str = "",
    calls: Sequence[tuple[str, str, str]] = (),
) -> Message:
    """An answer; ``calls`` are (id, name, JSON arguments).

    >>> assistant("", calls=[("c1", "bash", "{}")])["tool_calls"][0]["function"]["name"]
    'bash'
    """
    out: Message = {"role": "assistant", "content": text}
    if thinking:
        out["reasoning_content"] = thinking
    if calls:
        out["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls
        ]
    return out
