"""Anthropic's messages: reading requests."""

from __future__ import annotations

from typing import Any

from m2gym.core.protocols import ModelRequest
from m2gym.gateway import hosted, messages_answer
from m2gym.gateway.call import Call
from m2gym.gateway.fault import Fault, invalid
from m2gym.gateway.fields import Object, a_name, a_string, an_object, objects, sampling
from m2gym.gateway.opaque import unseal
from m2gym.gateway.reader import Past, Reader
from m2gym.gateway.tools import Offer, from_object, function_call

name = "messages"
MEMBERS = "messages"
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def parse(body: Object, model: str = "", stream: bool = False, past: Past | None = None) -> Call:
    """Read a request; fields that only steer Anthropic's own service are accepted unread."""
    offer = Offer()
    for where, tool in objects(body.get("tools"), "tools"):
        if tool.get("type") in (None, "custom"):
            offer.function(
                tool.get("name"), tool.get("description"), tool.get("input_schema"), where
            )
        else:
            shown = a_name(tool.get("name", tool["type"]), f"{where}.name")
            offer.provider_hosted(shown, name, tool)
    system = _content(body.get("system"), "system")
    first: list[Object] = [{"role": "system", "content": system}] if system else []
    past = past or Past()
    messages = _Reader().read(body.get("messages"), "messages", past)
    if not past.marks:
        raise invalid("messages", "at least one message", body.get("messages"))
    asked = a_name(body.get("model"), "model")
    thinking = body.get("thinking")
    return Call(
        request=ModelRequest(
            [*first, *messages],
            tuple(offer.schemas),
            sampling(body, max_tokens="max_tokens", stop="stop_sequences"),
            _choice(body.get("tool_choice")),
            asked,
        ),
        model=asked,
        stream=body.get("stream") is True,
        hosted=tuple(offer.hosted),
        thinking_asked=isinstance(thinking, dict)
        and thinking.get("type") in ("enabled", "adaptive"),
    )


def _choice(choice: Any) -> str:
    if choice is None:
        return "auto"
    inner = an_object(choice, "tool_choice")
    kind = inner.get("type")
    if kind == "tool":
        return a_name(inner.get("name"), "tool_choice.name")
    if not isinstance(kind, str) or kind not in CHOICES:
        raise invalid("tool_choice.type", "auto, any, none or tool", kind)
    return CHOICES[kind]


class _Reader(Reader):
    """A message each; one of a user with results of tools becomes several."""

    def member(self, member: Object, where: str) -> None:
        role, content = member.get("role"), member.get("content")
        if role == "assistant":
            self.messages.append(_assistant(content, f"{where}.content"))
        elif role == "system":
            said = {"role": "system", "content": _content(content, f"{where}.content")}
            self.messages.append(said)
        elif role == "user":
            _user(self.messages, content, f"{where}.content")
        else:
            raise invalid(f"{where}.role", "user, assistant or system", role)


def _user(messages: list[Object], content: Any, where: str) -> None:
    if isinstance(content, str):
        messages.append({"role": "user", "content": content})
        return
    said: list[Object] = []
    empty = True
    for place, block in objects(content, where):
        empty = False
        if block.get("type") != "tool_result":
            said.append(_block(block, place))
            continue
        if said:
            messages.append({"role": "user", "content": said})
            said = []
        result = {
            "role": "tool",
            "tool_call_id": a_name(block.get("tool_use_id"), f"{place}.tool_use_id"),
            "content": _content(block.get("content"), f"{place}.content"),
        }
        messages.append(result)
    if said or empty:
        messages.append({"role": "user", "content": said or ""})


def _assistant(content: Any, where: str) -> Object:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    text, thinking, calls = "", "", []
    ran: list[Object] = []
    for place, block in objects(content, where):
        kind = block.get("type")
        if kind == "text":
            text += a_string(block.get("text"), f"{place}.text")
        elif kind == "thinking":
            sealed = unseal(block.get("signature"))
            shown = a_string(block.get("thinking"), f"{place}.thinking", "")
            thinking += shown or (sealed.thinking if sealed else "")
        elif kind == "redacted_thinking":
            sealed = unseal(block.get("data"))
            thinking += sealed.thinking if sealed else ""
        elif kind == "tool_use":
            id = a_name(block.get("id"), f"{place}.id")
            called = a_name(block.get("name"), f"{place}.name")
            given = an_object(block.get("input") or {}, f"{place}.input")
            calls.append(function_call(id, called, from_object(given)))
        elif not hosted.take_block(ran, block, place):
            raise invalid(f"{place}.type", "text, thinking, redacted_thinking or tool_use", kind)
    out: Object = {"role": "assistant", "content": text}
    if thinking:
        out["reasoning_content"] = thinking
    if calls:
        out["tool_calls"] = calls
    if ran:
        out["hosted"] = ran
    return out


def _content(content: Any, where: str) -> str | list[Object]:
    if content is None or isinstance(content, str):
        return content or ""
    return [_block(block, place) for place, block in objects(content, where)]


def _block(block: Object, where: str) -> Object:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": a_string(block.get("text"), f"{where}.text")}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": _image(block, where)}}
    if kind == "document":
        source = an_object(block.get("source"), f"{where}.source")
        if source.get("type") == "text":
            return {"type": "text", "text": a_string(source.get("data"), f"{where}.source.data")}
        raise Fault("invalid", f"{where}: only documents of plain text are passed to the model")
    if kind == "tool_reference":
        return {"type": "text", "text": a_string(block.get("tool_name"), f"{where}.tool_name")}
    raise invalid(f"{where}.type", "text, image, document or tool_result", kind)


def _image(block: Object, where: str) -> str:
    source = an_object(block.get("source"), f"{where}.source")
    if source.get("type") == "base64":
        media = a_name(source.get("media_type"), f"{where}.source.media_type")
        return f"data:{media};base64,{a_name(source.get('data'), f'{where}.source.data')}"
    if source.get("type") == "url":
        return a_name(source.get("url"), f"{where}.source.url")
    raise invalid(f"{where}.source.type", "base64 or url", source.get("type"))


answer = messages_answer.answer
encoder = messages_answer.MessagesEncoder
error = messages_answer.error


def counted(tokens: int) -> Object:
    """Prompt tokens of a request."""
    return {"input_tokens": tokens}
