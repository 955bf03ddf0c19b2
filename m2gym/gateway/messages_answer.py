"""Anthropic's messages: answers, whole and as events, and errors."""

from __future__ import annotations

from m2gym.core.protocols import Delta
from m2gym.core.trajectory import Completion
from m2gym.gateway import hosted
from m2gym.gateway.call import Call, text_of, whole
from m2gym.gateway.fault import Fault, Kind
from m2gym.gateway.fields import Object
from m2gym.gateway.opaque import seal
from m2gym.gateway.tools import as_object, read_call
from m2gym.gateway.wire import dumps, dumps_text, named_event

STOPS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error",
    "context": "invalid_request_error",
    "unauthenticated": "authentication_error",
    "ended": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "internal": "api_error",
}


def error(fault: Fault) -> Object:
    """The body of a refused request."""
    return {"type": "error", "error": {"type": TYPES[fault.kind], "message": fault.message}}


def usage(completion: Completion) -> Object:
    """Token counts as they were; nothing is cached here."""
    return {
        "input_tokens": completion.usage.prompt_tokens,
        "output_tokens": completion.usage.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def answer(call: Call, completion: Completion, id: str, created: int) -> Object:
    """The whole answer."""
    message = completion.message
    content: list[Object] = []
    thinking = message.get("reasoning_content")
    if thinking and call.thinking_asked:
        content.append(
            {"type": "thinking", "thinking": thinking, "signature": seal(thinking=thinking)}
        )
    content += hosted.blocks(message)
    if text_of(message):
        content.append({"type": "text", "text": text_of(message)})
    for called in map(read_call, message.get("tool_calls") or ()):
        given = as_object(called.arguments)
        content.append({"type": "tool_use", "id": called.id, "name": called.name, "input": given})
    return {
        "id": f"msg_{id}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": STOPS.get(completion.finish_reason, "end_turn"),
        "stop_sequence": None,
        "usage": usage(completion),
    }


class MessagesEncoder:
    """Events of content blocks, one open at a time."""

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, call: Call, id: str, created: int) -> None:
        self._id, self._call = id, call
        self._index = -1
        self._open: str | int | None = None
        self._thought = ""
        self._text_head = b""
        self._empty = True

    def begin(self) -> bytes:
        """``message_start``; the counts follow at the end, when they are known."""
        message: Object = {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "model": self._call.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return named_event({"type": "message_start", "message": message})

    def delta(self, delta: Delta) -> bytes:
        """The piece as a delta of the block it belongs to, which is opened before."""
        out = b""
        if delta.thinking:
            self._empty = False
            if self._call.thinking_asked:
                out = self._switch(
                    "thinking", {"type": "thinking", "thinking": "", "signature": ""}
                )
                self._thought += delta.thinking
                out += self._piece({"type": "thinking_delta", "thinking": delta.thinking})
        if delta.text:
            self._empty = False
            if self._open != "text":
                out += self._switch("text", {"type": "text", "text": ""})
            out += self._text_head + dumps(delta.text) + b"}}\n\n"
        piece = delta.tool_call
        if piece is not None:
            self._empty = False
            if self._open != piece.index:
                block = {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}
                out += self._switch(piece.index, block)
            if piece.arguments:
                out += self._piece({"type": "input_json_delta", "partial_json": piece.arguments})
        return out

    def end(self, completion: Completion) -> bytes:
        """What is left, why it stopped, and the counts."""
        out = b"".join(map(self.delta, whole(completion))) if self._empty else b""
        out += self._close() + self._hosted(completion)
        stop = STOPS.get(completion.finish_reason, "end_turn")
        ended = {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": usage(completion),
        }
        return out + named_event(ended) + named_event({"type": "message_stop"})

    def _hosted(self, completion: Completion) -> bytes:
        out = b""
        for number, block in enumerate(hosted.blocks(completion.message)):
            given = block.get("input")
            if given is not None:
                block = {**block, "input": {}}
            out += self._switch(f"hosted {number}", block)
            if given is not None:
                piece = {"type": "input_json_delta", "partial_json": dumps_text(given)}
                out += self._piece(piece)
            out += self._close()
        return out

    def fail(self, fault: Fault) -> bytes:
        """An ``error`` event."""
        return named_event(error(fault))

    def _switch(self, to: str | int, block: Object) -> bytes:
        if self._open == to:
            return b""
        out = self._close()
        self._index += 1
        self._open = to
        place = {"type": "content_block_delta", "index": self._index}
        self._text_head = (
            b"event: content_block_delta\ndata: "
            + dumps(place)[:-1]
            + b',"delta":{"type":"text_delta","text":'
        )
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return out + named_event(start)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        out = b""
        if self._open == "thinking":
            signature = seal(thinking=self._thought)
            out = self._piece({"type": "signature_delta", "signature": signature})
            self._thought = ""
        self._open = None
        return out + named_event({"type": "content_block_stop", "index": self._index})

    def _piece(self, delta: Object) -> bytes:
        return named_event({"type": "content_block_delta", "index": self._index, "delta": delta})
