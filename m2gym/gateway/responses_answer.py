"""OpenAI's responses: answers, whole and as events.

Every item ends in ``response.output_item.done`` and the stream in ``response.completed`` with the
response's id: clients take nothing as said before.
"""

from __future__ import annotations

from dataclasses import replace

from m2gym.core.protocols import Delta
from m2gym.core.trajectory import Completion
from m2gym.gateway import hosted
from m2gym.gateway.call import Call, text_of, whole
from m2gym.gateway.errors_openai import TYPES
from m2gym.gateway.fault import Fault
from m2gym.gateway.fields import Object
from m2gym.gateway.opaque import seal
from m2gym.gateway.tools import Called, freeform_input, read_call
from m2gym.gateway.wire import dumps, named_event

ECHOED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning",
    "temperature", "text", "tool_choice", "tools", "top_p", "prompt_cache_key",
    "previous_response_id",
)  # fmt: skip
"""Fields of a request that its answer repeats."""

DEFAULTS: Object = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "store": False,
}


def usage(completion: Completion) -> Object:
    """Token counts as they were; nothing is cached, and thinking is not counted apart."""
    used = completion.usage
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def _response(call: Call, id: str, created: int, status: str, output: list[Object]) -> Object:
    return {
        "id": f"resp_{id}",
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": call.model,
        **DEFAULTS,
        **call.echo,
        "output": output,
        "usage": None,
    }


def _finished(
    call: Call, completion: Completion, id: str, created: int, output: list[Object]
) -> Object:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = reasons.get(completion.finish_reason)
    done = _response(call, id, created, "incomplete" if reason else "completed", output)
    done["incomplete_details"] = {"reason": reason} if reason else None
    done["usage"] = usage(completion)
    return done


def _thought_item(id: str, text: str) -> Object:
    summary = [{"type": "summary_text", "text": text}] if text else []
    sealed = seal(thinking=text) if text else None
    return {"id": id, "type": "reasoning", "summary": summary, "encrypted_content": sealed}


def _text_item(id: str, text: str, status: str = "completed") -> Object:
    content = [_text_part(text)] if status == "completed" else []
    return {"id": id, "type": "message", "status": status, "role": "assistant", "content": content}


def _text_part(text: str) -> Object:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(call: Call, id: str, called: Called, status: str = "completed") -> Object:
    if called.name in call.custom:
        return {
            "id": f"ctc_{id}",
            "type": "custom_tool_call",
            "status": status,
            "call_id": called.id,
            "name": called.name,
            "input": called.input or "",
        }
    item = {
        "id": f"fc_{id}",
        "type": "function_call",
        "status": status,
        "call_id": called.id,
        "name": called.name,
        "arguments": called.arguments,
    }
    if called.name in call.namespaces:
        item["namespace"], item["name"] = call.namespaces[called.name]
    return item


def answer(call: Call, completion: Completion, id: str, created: int) -> Object:
    """The whole answer."""
    message = completion.message
    output: list[Object] = []
    if message.get("reasoning_content"):
        output.append(_thought_item(f"rs_{id}_0", message["reasoning_content"]))
    output += hosted.items(message)
    if text_of(message):
        output.append(_text_item(f"msg_{id}_{len(output)}", text_of(message)))
    for recorded in message.get("tool_calls") or ():
        called = read_call(recorded, call.custom)
        output.append(_call_item(call, f"{id}_{len(output)}", called))
    return _finished(call, completion, id, created, output)


class ResponsesEncoder:
    """Events of items, one open at a time, numbered from 0."""

    ping = b": ping\n\n"

    def __init__(self, call: Call, id: str, created: int) -> None:
        self._call, self._id, self._created = call, id, created
        self._sequence = 0
        self._output: list[Object] = []
        self._open: str | int | None = None
        self._item = ""
        self._called = Called("", "", "")
        self._pieces: list[str] = []
        self._text_head = b""
        self._empty = True

    def begin(self) -> bytes:
        """``response.created`` and ``response.in_progress``."""
        started = _response(self._call, self._id, self._created, "in_progress", [])
        return self._event("response.created", response=started) + self._event(
            "response.in_progress", response=started
        )

    def delta(self, delta: Delta) -> bytes:
        """The piece as a delta of the item it belongs to, which is opened before."""
        out = b""
        if delta.thinking:
            out = self._think(delta.thinking)
        if delta.text:
            out += self._say(delta.text)
        piece = delta.tool_call
        if piece is not None:
            self._empty = False
            if self._open != piece.index:
                out += self._close()
                self._open = piece.index
                self._called = Called(piece.id, piece.name, "")
                item = _call_item(
                    self._call, f"{self._id}_{len(self._output)}", self._called, "in_progress"
                )
                self._item = item["id"]
                out += self._added(item)
            if piece.arguments:
                self._pieces.append(piece.arguments)
                if self._called.name not in self._call.custom:
                    kind = "response.function_call_arguments.delta"
                    out += self._item_event(kind, delta=piece.arguments)
        return out

    def end(self, completion: Completion) -> bytes:
        """The open item's end and the whole response."""
        out = b"".join(map(self.delta, whole(completion))) if self._empty else b""
        out += self._close()
        for item in hosted.items(completion.message):
            out += self._added({**item, "status": "in_progress"})
            out += self._event(
                "response.output_item.done", output_index=len(self._output), item=item
            )
            self._output.append(item)
        done = _finished(self._call, completion, self._id, self._created, self._output)
        return out + self._event(f"response.{done['status']}", response=done)

    def fail(self, fault: Fault) -> bytes:
        """``response.failed`` with the cause."""
        failed = _response(self._call, self._id, self._created, "failed", self._output)
        code = TYPES[fault.kind][1] or "invalid_prompt"
        failed["error"] = {"code": code, "message": fault.message}
        return self._event("response.failed", response=failed)

    def _think(self, text: str) -> bytes:
        self._empty = False
        out = b""
        if self._open != "thinking":
            out = self._close()
            self._open, self._item = "thinking", f"rs_{self._id}_{len(self._output)}"
            out += self._added(_thought_item(self._item, ""))
            part = {"type": "summary_text", "text": ""}
            out += self._summary_event("response.reasoning_summary_part.added", part=part)
        self._pieces.append(text)
        return out + self._summary_event("response.reasoning_summary_text.delta", delta=text)

    def _say(self, text: str) -> bytes:
        self._empty = False
        out = b""
        if self._open != "text":
            out = self._close()
            self._open, self._item = "text", f"msg_{self._id}_{len(self._output)}"
            out += self._added(_text_item(self._item, "", "in_progress"))
            out += self._text_event("response.content_part.added", part=_text_part(""))
            place = {"item_id": self._item, "output_index": len(self._output), "content_index": 0}
            self._text_head = (
                b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
                + dumps(place)[1:-1]
                + b',"logprobs":[],"sequence_number":'
            )
        self._pieces.append(text)
        number = self._sequence
        self._sequence += 1
        return out + self._text_head + b'%d,"delta":' % number + dumps(text) + b"}\n\n"

    def _close(self) -> bytes:
        kind, text = self._open, "".join(self._pieces)
        self._open, self._pieces = None, []
        if kind is None:
            return b""
        if kind == "thinking":
            item = _thought_item(self._item, text)
            part = {"type": "summary_text", "text": text}
            out = self._summary_event("response.reasoning_summary_text.done", text=text)
            out += self._summary_event("response.reasoning_summary_part.done", part=part)
        elif kind == "text":
            item = _text_item(self._item, text)
            out = self._text_event("response.output_text.done", text=text, logprobs=[])
            out += self._text_event("response.content_part.done", part=_text_part(text))
        else:
            called = replace(self._called, arguments=text)
            if called.name in self._call.custom:
                called = replace(called, input=freeform_input(text))
            item = _call_item(self._call, f"{self._id}_{len(self._output)}", called)
            if called.input is not None:
                event = "response.custom_tool_call_input"
                out = self._item_event(f"{event}.delta", delta=called.input)
                out += self._item_event(f"{event}.done", input=called.input)
            else:
                event = "response.function_call_arguments.done"
                out = self._item_event(event, arguments=text, name=item["name"])
        out += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return out

    def _added(self, item: Object) -> bytes:
        return self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _item_event(self, kind: str, **fields: object) -> bytes:
        return self._event(kind, item_id=self._item, output_index=len(self._output), **fields)

    def _text_event(self, kind: str, **fields: object) -> bytes:
        return self._item_event(kind, content_index=0, **fields)

    def _summary_event(self, kind: str, **fields: object) -> bytes:
        return self._item_event(kind, summary_index=0, **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        number = self._sequence
        self._sequence += 1
        return named_event({"type": kind, "sequence_number": number, **fields})
