"""OpenAI's responses: reading requests."""

from __future__ import annotations

from typing import Any

from m2gym.core.protocols import ModelRequest
from m2gym.gateway import chat, hosted, responses_answer
from m2gym.gateway.call import Call
from m2gym.gateway.errors_openai import error_body
from m2gym.gateway.fault import Fault, invalid
from m2gym.gateway.fields import Object, a_name, a_string, an_object, objects, sampling
from m2gym.gateway.opaque import unseal
from m2gym.gateway.reader import Past, Reader
from m2gym.gateway.tools import Offer, freeform_call, function_call

name = "responses"
MEMBERS = "input"
TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


def parse(body: Object, model: str = "", stream: bool = False, past: Past | None = None) -> Call:
    """Read a request; ``model`` and ``stream`` stand in the body, members of ``past`` do not."""
    for key in ("conversation", "prompt"):
        if body.get(key) is not None:
            raise Fault("invalid", f"{key} is not kept here: send the whole conversation in input")
    if body.get("background") is True:
        raise Fault("invalid", "background responses are not kept here: wait for the answer")
    offer = Offer()
    for where, tool in objects(body.get("tools"), "tools"):
        _offer(offer, tool, where)
    instructions = a_string(body.get("instructions"), "instructions", "")
    first: list[Object] = [{"role": "system", "content": instructions}] if instructions else []
    given = body.get("input")
    past = past or Past()
    if isinstance(given, str):
        messages: list[Object] = [{"role": "user", "content": given}]
    else:
        messages = _Reader().read(given, "input", past)
    if not given and not past.marks:
        raise invalid("input", "a string or a list of items", given)
    asked = a_name(body.get("model"), "model")
    store = body.get("store") is not False
    return Call(
        request=ModelRequest(
            [*first, *messages],
            tuple(offer.schemas),
            sampling(body, max_tokens="max_output_tokens", stop="stop"),
            chat.tool_choice(body.get("tool_choice")),
            asked,
        ),
        model=asked,
        stream=body.get("stream") is True,
        custom=frozenset(offer.custom),
        namespaces=offer.namespaces,
        hosted=tuple(offer.hosted),
        echo={
            **{key: body[key] for key in responses_answer.ECHOED if body.get(key) is not None},
            "store": store,
        },
        previous=a_string(body.get("previous_response_id"), "previous_response_id", ""),
        instructions=len(first),
        store=store,
    )


def _offer(offer: Offer, tool: Object, where: str, namespace: str = "") -> None:
    kind = a_name(tool.get("type"), f"{where}.type")
    if kind == "function":
        offer.function(
            tool.get("name"), tool.get("description"), tool.get("parameters"), where, namespace
        )
    elif kind == "custom":
        offer.freeform(tool, where)
    elif kind == "namespace" and not namespace:
        named = a_name(tool.get("name"), f"{where}.name")
        for place, member in objects(tool.get("tools"), f"{where}.tools"):
            _offer(offer, member, place, named)
    else:
        offer.provider_hosted(kind, name, tool)


class _Reader(Reader):
    """Items: what the model said between two others' items is one message."""

    def member(self, member: Object, where: str) -> None:
        kind = member.get("type") or "message"
        if kind == "message":
            self._message(member, where)
        elif kind == "reasoning":
            self._thought(member, where)
        elif kind in ("function_call", "custom_tool_call"):
            self._call(member, kind, where)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            id = a_name(member.get("call_id"), f"{where}.call_id")
            content = _content(member.get("output"), f"{where}.output")
            self.messages.append({"role": "tool", "tool_call_id": id, "content": content})
        elif kind in hosted.ITEMS:
            said = self.last_answer()
            said["hosted"] = [*said.get("hosted", ()), hosted.read_item(member, kind)]
        else:
            raise invalid(f"{where}.type", "a message, reasoning, call or call's output", kind)

    def _message(self, item: Object, where: str) -> None:
        role = item.get("role")
        content = _content(item.get("content"), f"{where}.content")
        if role == "assistant":
            said = self.last_answer()
            text = (
                content if isinstance(content, str) else "".join(b.get("text", "") for b in content)
            )
            said["content"] += text
        elif role in ("user", "system", "developer"):
            shown = "user" if role == "user" else "system"
            self.messages.append({"role": shown, "content": content})
        else:
            raise invalid(f"{where}.role", "user, assistant, system or developer", role)

    def _thought(self, item: Object, where: str) -> None:
        sealed = unseal(item.get("encrypted_content"))
        text = sealed.thinking if sealed else ""
        for key in ("content", "summary"):
            if not text:
                parts = objects(item.get(key), f"{where}.{key}")
                text = "".join(a_string(p.get("text"), f"{place}.text", "") for place, p in parts)
        if text:
            said = self.last_answer()
            said["reasoning_content"] = said.get("reasoning_content", "") + text

    def _call(self, item: Object, kind: str, where: str) -> None:
        id = a_name(item.get("call_id"), f"{where}.call_id")
        called = a_name(item.get("name"), f"{where}.name")
        namespace = a_string(item.get("namespace"), f"{where}.namespace", "")
        if namespace:
            called = f"{namespace}__{called}"
        if kind == "custom_tool_call":
            call = freeform_call(id, called, a_string(item.get("input"), f"{where}.input", ""))
        else:
            arguments = a_string(item.get("arguments"), f"{where}.arguments", "")
            call = function_call(id, called, arguments)
        self.last_answer().setdefault("tool_calls", []).append(call)


def _content(content: Any, where: str) -> str | list[Object]:
    if content is None or isinstance(content, str):
        return content or ""
    blocks: list[Object] = []
    for place, block in objects(content, where):
        kind = block.get("type")
        if isinstance(kind, str) and kind in TEXTS:
            text = a_string(block.get(TEXTS[kind]), f"{place}.{TEXTS[kind]}")
            blocks.append({"type": "text", "text": text})
        elif kind == "input_image":
            image = block.get("image_url")
            url = an_object(image, place).get("url") if isinstance(image, dict) else image
            shown = a_name(url, f"{place}.image_url")
            blocks.append({"type": "image_url", "image_url": {"url": shown}})
        else:
            raise invalid(f"{place}.type", "input_text, output_text or input_image", kind)
    return blocks


answer = responses_answer.answer
encoder = responses_answer.ResponsesEncoder
error = error_body


def counted(tokens: int) -> Object:
    """Prompt tokens of a request."""
    return {"object": "response.input_tokens", "input_tokens": tokens}
