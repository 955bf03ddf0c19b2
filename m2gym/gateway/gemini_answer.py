"""Google's generateContent: answers, whole and as events, and errors.

No comment lines and no named events: they break this dialect's clients. A call's arguments travel
whole, so calls are sent when they are complete.
"""

from __future__ import annotations

from m2gym.core.protocols import Delta
from m2gym.core.trajectory import Completion
from m2gym.gateway import hosted
from m2gym.gateway.call import Call, text_of, whole
from m2gym.gateway.fault import Fault, Kind
from m2gym.gateway.fields import Object
from m2gym.gateway.opaque import seal
from m2gym.gateway.tools import Called, as_object, read_call
from m2gym.gateway.wire import dumps, event

FINISH = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
STATUSES: dict[Kind, str] = {
    "invalid": "INVALID_ARGUMENT",
    "context": "INVALID_ARGUMENT",
    "unauthenticated": "UNAUTHENTICATED",
    "ended": "PERMISSION_DENIED",
    "not_found": "NOT_FOUND",
    "too_large": "INVALID_ARGUMENT",
    "rate_limit": "RESOURCE_EXHAUSTED",
    "overloaded": "UNAVAILABLE",
    "timeout": "DEADLINE_EXCEEDED",
    "internal": "INTERNAL",
}


def error(fault: Fault) -> Object:
    """The body of a refused request."""
    body: Object = {
        "code": fault.status,
        "message": fault.message,
        "status": STATUSES[fault.kind],
    }
    if fault.retry_after is not None:
        info = "type.googleapis.com/google.rpc.RetryInfo"
        body["details"] = [{"@type": info, "retryDelay": f"{fault.retry_after:g}s"}]
    return {"error": body}


def usage(completion: Completion) -> Object:
    """Token counts as they were."""
    used = completion.usage
    return {
        "promptTokenCount": used.prompt_tokens,
        "candidatesTokenCount": used.completion_tokens,
        "totalTokenCount": used.prompt_tokens + used.completion_tokens,
    }


def _call_part(called: Called, thinking: str) -> Object:
    return {
        "functionCall": {"id": called.id, "name": called.name, "args": as_object(called.arguments)},
        "thoughtSignature": seal(thinking=thinking, call_id=called.id),
    }


def answer(call: Call, completion: Completion, id: str, created: int) -> Object:
    """The whole answer."""
    message = completion.message
    thinking = message.get("reasoning_content") or ""
    parts: list[Object] = []
    if thinking and call.thinking_asked:
        parts.append({"text": thinking, "thought": True})
    parts += hosted.parts(message)
    text, calls = text_of(message), message.get("tool_calls") or ()
    if text or not calls:
        parts.append({"text": text})
        if thinking:
            parts[-1]["thoughtSignature"] = seal(thinking=thinking)
            thinking = ""
    for called in map(read_call, calls):
        parts.append(_call_part(called, thinking))
        thinking = ""
    candidate = {
        "content": {"role": "model", "parts": parts},
        "finishReason": FINISH.get(completion.finish_reason, "STOP"),
        "index": 0,
        **_searched(message),
    }
    return {
        "candidates": [candidate],
        "usageMetadata": usage(completion),
        "modelVersion": call.model,
        "responseId": id,
    }


def _searched(message: Object) -> Object:
    found = hosted.grounding(message)
    return {} if found is None else {"groundingMetadata": found}


class GeminiEncoder:
    """Chunks of candidates; the last has the finish reason and the counts."""

    ping = b""

    def __init__(self, call: Call, id: str, created: int) -> None:
        self._call = call
        self._tail: Object = {"modelVersion": call.model, "responseId": id}
        self._text_end = b'}]},"index":0}],' + dumps(self._tail)[1:] + b"\n\n"
        self._thought = ""
        self._calls: dict[int, Called] = {}
        self._empty = True

    def begin(self) -> bytes:
        """Nothing: an empty candidate would count as an answer."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """A chunk a piece; the first text after thinking carries the signature."""
        out = b""
        if delta.thinking:
            self._empty = False
            self._thought += delta.thinking
            if self._call.thinking_asked:
                out = self._parts([{"text": delta.thinking, "thought": True}])
        if delta.text:
            self._empty = False
            if self._thought:
                out += self._parts([{"text": delta.text, "thoughtSignature": self._signature()}])
            else:
                out += _TEXT + dumps(delta.text) + self._text_end
        piece = delta.tool_call
        if piece is not None:
            self._empty = False
            held = self._calls.get(piece.index) or Called(piece.id, piece.name, "")
            self._calls[piece.index] = Called(held.id, held.name, held.arguments + piece.arguments)
        return out

    def end(self, completion: Completion) -> bytes:
        """The calls, the finish reason and the counts."""
        out = b"".join(map(self.delta, whole(completion))) if self._empty else b""
        parts = hosted.parts(completion.message)
        for called in self._calls.values():
            parts.append(_call_part(called, self._thought))
            self._thought = ""
        if not parts:
            parts.append({"text": ""})
            if self._thought:
                parts[-1]["thoughtSignature"] = self._signature()
        last = {
            "content": {"role": "model", "parts": parts},
            "finishReason": FINISH.get(completion.finish_reason, "STOP"),
            "index": 0,
            **_searched(completion.message),
        }
        return out + event({"candidates": [last], "usageMetadata": usage(completion), **self._tail})

    def fail(self, fault: Fault) -> bytes:
        """An error object in the stream."""
        return event(error(fault))

    def _signature(self) -> str:
        signature = seal(thinking=self._thought)
        self._thought = ""
        return signature

    def _parts(self, parts: list[Object]) -> bytes:
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        return event({"candidates": [candidate], **self._tail})


class ArrayEncoder:
    """The same answer as one JSON array that grows, for clients that do not ask for events."""

    ping = b""

    def __init__(self, inner: GeminiEncoder) -> None:
        self._inner = inner
        self._lead = b"["

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """The chunks as members."""
        return self._members(self._inner.delta(delta))

    def end(self, completion: Completion) -> bytes:
        """The last members and the closing bracket."""
        return self._members(self._inner.end(completion)) + b"]"

    def fail(self, fault: Fault) -> bytes:
        """The error as the last member."""
        return self._members(self._inner.fail(fault)) + b"]"

    def _members(self, events: bytes) -> bytes:
        out = b""
        for chunk in events.split(b"\n\n")[:-1]:
            out += self._lead + chunk.removeprefix(b"data: ")
            self._lead = b",\n"
        return out


_TEXT = b'data: {"candidates":[{"content":{"role":"model","parts":[{"text":'
