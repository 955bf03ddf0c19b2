"""OpenAI's chat completions."""

from __future__ import annotations

from typing import Any

from m2gym.core.protocols import Delta, ModelRequest
from m2gym.core.trajectory import Completion
from m2gym.gateway import hosted
from m2gym.gateway.call import Call, Encoder, text_of, whole
from m2gym.gateway.errors_openai import error_body
from m2gym.gateway.fault import Fault, invalid
from m2gym.gateway.fields import Object, a_name, a_string, an_object, objects, sampling
from m2gym.gateway.reader import Past, Reader
from m2gym.gateway.tools import (
    Called,
    Offer,
    freeform_call,
    freeform_input,
    function_call,
    read_call,
)
from m2gym.gateway.wire import dumps, event

name = "chat"
MEMBERS = "messages"
"""The field whose list grows with the conversation."""

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def parse(body: Object, model: str = "", stream: bool = False, past: Past | None = None) -> Call:
    """Read a request; ``model`` and ``stream`` stand in the body, members of ``past`` do not."""
    if body.get("n") not in (None, 1):
        raise invalid("n", "1 (ask again for more choices)", body["n"])
    offer = Offer()
    for where, tool in objects(body.get("tools"), "tools"):
        _offer(offer, tool, where)
    if body.get("web_search_options") is not None:
        offer.provider_hosted("web_search", name, body["web_search_options"])
    messages = _Reader().read(body.get("messages"), "messages", past or Past())
    if not messages:
        raise invalid("messages", "at least one message", body.get("messages"))
    asked = a_name(body.get("model"), "model")
    limits = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    options = body.get("stream_options")
    return Call(
        request=ModelRequest(
            messages,
            tuple(offer.schemas),
            sampling(body, max_tokens=limits, stop="stop"),
            tool_choice(body.get("tool_choice")),
            asked,
        ),
        model=asked,
        stream=body.get("stream") is True,
        custom=frozenset(offer.custom),
        hosted=tuple(offer.hosted),
        usage_asked=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _offer(offer: Offer, tool: Object, where: str) -> None:
    kind = tool.get("type")
    if kind == "function":
        inner = an_object(tool.get("function"), f"{where}.function")
        offer.function(inner.get("name"), inner.get("description"), inner.get("parameters"), where)
    elif kind == "custom":
        offer.freeform(an_object(tool.get("custom"), f"{where}.custom"), where)
    else:
        offer.provider_hosted(a_name(kind, f"{where}.type"), "responses", tool)


def tool_choice(choice: Any) -> str:
    """``auto``, ``none``, ``required`` or a tool's name."""
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise invalid("tool_choice", "auto, none, required or an object", choice)
        return choice
    inner = an_object(choice, "tool_choice")
    kind = a_name(inner.get("type"), "tool_choice.type")
    if kind == "allowed_tools":
        allowed = inner.get("allowed_tools", inner)
        return (
            "required"
            if isinstance(allowed, dict) and allowed.get("mode") == "required"
            else "auto"
        )
    named = inner.get(kind, inner) if kind in ("function", "custom") else {"name": kind}
    return a_name(an_object(named, "tool_choice").get("name"), "tool_choice.name")


class _Reader(Reader):
    """A message each."""

    def member(self, member: Object, where: str) -> None:
        self.messages.append(_message(member, where))


def _message(message: Object, where: str) -> Object:
    role = message.get("role")
    if role == "tool":
        id = a_name(message.get("tool_call_id"), f"{where}.tool_call_id")
        content = _content(message.get("content"), f"{where}.content")
        return {"role": "tool", "tool_call_id": id, "content": content}
    if role not in ROLES:
        raise invalid(f"{where}.role", "system, developer, user, assistant or tool", role)
    out: Object = {
        "role": ROLES[role],
        "content": _content(message.get("content"), f"{where}.content"),
    }
    if role == "assistant":
        thinking = message.get("reasoning_content") or message.get("reasoning")
        if thinking:
            out["reasoning_content"] = a_string(thinking, f"{where}.reasoning_content")
        calls = [
            _called(call, place)
            for place, call in objects(message.get("tool_calls"), f"{where}.tool_calls")
        ]
        if calls:
            out["tool_calls"] = calls
    return out


def _content(content: Any, where: str) -> str | list[Object]:
    if content is None or isinstance(content, str):
        return content or ""
    blocks: list[Object] = []
    for place, block in objects(content, where):
        kind = block.get("type")
        if kind in ("text", "refusal"):
            blocks.append({"type": "text", "text": a_string(block.get(kind), f"{place}.{kind}")})
        elif kind == "image_url":
            image = block.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            blocks.append(
                {"type": "image_url", "image_url": {"url": a_name(url, f"{place}.image_url.url")}}
            )
        else:
            raise invalid(f"{place}.type", "text or image_url", kind)
    return blocks


def _called(call: Object, where: str) -> Object:
    id = a_name(call.get("id"), f"{where}.id")
    if call.get("type") == "custom":
        inner = an_object(call.get("custom"), f"{where}.custom")
        named = a_name(inner.get("name"), f"{where}.custom.name")
        return freeform_call(id, named, a_string(inner.get("input"), f"{where}.custom.input", ""))
    inner = an_object(call.get("function"), f"{where}.function")
    named = a_name(inner.get("name"), f"{where}.function.name")
    arguments = a_string(inner.get("arguments"), f"{where}.function.arguments", "")
    return function_call(id, named, arguments)


def usage(completion: Completion) -> Object:
    """Token counts as they were."""
    used = completion.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def _call_form(called: Called) -> Object:
    if called.input is not None:
        inner = {"name": called.name, "input": called.input}
        return {"id": called.id, "type": "custom", "custom": inner}
    return function_call(called.id, called.name, called.arguments)


def answer(call: Call, completion: Completion, id: str, created: int) -> Object:
    """The whole answer."""
    recorded = completion.message
    calls = [_call_form(read_call(c, call.custom)) for c in recorded.get("tool_calls") or ()]
    message: Object = {"role": "assistant", "content": text_of(recorded) or (None if calls else "")}
    if recorded.get("reasoning_content"):
        message["reasoning_content"] = recorded["reasoning_content"]
    if calls:
        message["tool_calls"] = calls
    if cited := hosted.citations(recorded):
        message["annotations"] = cited
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    return {
        "id": f"chatcmpl-{id}",
        "object": "chat.completion",
        "created": created,
        "model": call.model,
        "choices": [choice],
        "usage": usage(completion),
    }


class ChatEncoder:
    """Chunks; the last but ``[DONE]`` carries the finish reason, and the usage where asked."""

    ping = b": ping\n\n"

    def __init__(self, call: Call, id: str, created: int) -> None:
        self._custom, self._usage_asked = call.custom, call.usage_asked
        self._head: Object = {
            "id": f"chatcmpl-{id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": call.model,
        }
        self._lead = b"data: " + dumps(self._head)[:-1] + b',"choices":[{"index":0,"delta":'
        self._text = self._lead + b'{"content":'
        self._empty = True
        self._free: dict[int, Called] = {}

    def begin(self) -> bytes:
        """The chunk that names the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def delta(self, delta: Delta) -> bytes:
        """A chunk a piece."""
        out = b""
        if delta.thinking:
            self._empty = False
            out = self._chunk({"reasoning_content": delta.thinking})
        if delta.text:
            self._empty = False
            out += self._text + dumps(delta.text) + b'},"finish_reason":null}]}\n\n'
        piece = delta.tool_call
        if piece is None:
            return out
        self._empty = False
        if piece.name in self._custom or piece.index in self._free:
            held = self._free.get(piece.index) or Called(piece.id, piece.name, "")
            self._free[piece.index] = Called(held.id, held.name, held.arguments + piece.arguments)
            return out
        entry: Object = {"index": piece.index, "function": {"arguments": piece.arguments}}
        if piece.id or piece.name:
            entry = {
                "index": piece.index,
                "id": piece.id,
                "type": "function",
                "function": {"name": piece.name, "arguments": piece.arguments},
            }
        return out + self._chunk({"tool_calls": [entry]})

    def end(self, completion: Completion) -> bytes:
        """What is left, the finish reason, the usage and ``[DONE]``."""
        out = b"".join(map(self.delta, whole(completion))) if self._empty else b""
        for index, held in self._free.items():
            inner = {"name": held.name, "input": freeform_input(held.arguments)}
            entry = {"index": index, "id": held.id, "type": "custom", "custom": inner}
            out += self._chunk({"tool_calls": [entry]})
        if cited := hosted.citations(completion.message):
            out += self._chunk({"annotations": cited})
        out += self._chunk({}, completion.finish_reason)
        if self._usage_asked:
            out += event({**self._head, "choices": [], "usage": usage(completion)})
        return out + b"data: [DONE]\n\n"

    def fail(self, fault: Fault) -> bytes:
        """An error in the stream, which the official clients raise."""
        return event(error_body(fault))

    def _chunk(self, delta: Object, finish: str | None = None) -> bytes:
        return self._lead + dumps(delta) + b',"finish_reason":' + dumps(finish) + b"}]}\n\n"


def encoder(call: Call, id: str, created: int) -> Encoder:
    """The answer as a stream."""
    return ChatEncoder(call, id, created)


error = error_body


def counted(tokens: int) -> Object:
    """Prompt tokens of a request, in the form of the responses dialect's counter."""
    return {"object": "response.input_tokens", "input_tokens": tokens}
