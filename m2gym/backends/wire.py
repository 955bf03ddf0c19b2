"""Requests to, and streamed answers of, servers that speak OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from m2gym.backends.hosted import SERVER_TOOL, Ran, asked_for
from m2gym.core.errors import ModelError
from m2gym.core.protocols import Delta, ModelRequest, Sampling, ToolCallDelta
from m2gym.core.trajectory import Completion
from m2gym.models.messages import Message, assistant

T = TypeVar("T")

FINISH = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}


def messages_for(messages: Sequence[Mapping[str, Any]], *, thinking: bool) -> list[Message]:
    """Messages as a server takes them; ``thinking``: with earlier thinking."""
    return [_message(message, thinking) for message in messages]


def _message(message: Mapping[str, Any], thinking: bool) -> Message:
    out = {key: message[key] for key in ("role", "content", "tool_call_id") if key in message}
    if thinking and message.get("reasoning_content"):
        out["reasoning_content"] = message["reasoning_content"]
    if calls := message.get("tool_calls"):
        out["tool_calls"] = [_call(call) for call in calls]
        out["content"] = out["content"] or None
    return out


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    if call["type"] != "custom":
        return dict(call)
    arguments = json.dumps({"input": call["custom"]["input"]}, ensure_ascii=False)
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": call["custom"]["name"], "arguments": arguments},
    }


def tools_for(
    request: ModelRequest, family: str = "chat", *, web_search: bool = True
) -> dict[str, Any]:
    """``tools`` and ``tool_choice``, and hosted tools; nothing where there are none.

    Raises:
        ModelError: a hosted tool has no form for a provider of this ``family``.
    """
    hosted, out = asked_for(request, family, web_search=web_search)
    tools = [*(tool.openai() for tool in request.tools), *hosted]
    if not tools:
        return out
    out["tools"] = tools
    if request.tool_choice in ("none", "required"):
        out["tool_choice"] = request.tool_choice
    elif request.tool_choice != "auto":
        out["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
    return out


def sampling_for(sampling: Sampling, *, explicit: bool) -> dict[str, Any]:
    """OpenAI's sampling fields; ``explicit``: also where they are the default (a self-hosted
    server has defaults of its own)."""
    out: dict[str, Any] = {}
    if explicit or sampling.temperature != 1.0:
        out["temperature"] = sampling.temperature
    if explicit or sampling.top_p != 1.0:
        out["top_p"] = sampling.top_p
    if sampling.max_tokens is not None:
        out["max_tokens"] = sampling.max_tokens
    if sampling.seed is not None:
        out["seed"] = sampling.seed
    if sampling.stop:
        out["stop"] = list(sampling.stop)
    return out


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    @property
    def served(self) -> bool:
        """Whether the provider ran it."""
        return self.id.startswith(SERVER_TOOL)


class Assembler:
    """Chunks in, deltas out; afterwards the whole answer.

    Chunks are plain dictionaries. Ids and logprobs are read where a server gives them: vLLM's
    ``prompt_token_ids`` and ``token_ids``, or logprobs whose tokens are spelt ``token_id:N``.
    """

    def __init__(self) -> None:
        self.finish = ""
        self.model: str | None = None
        self.usage: Mapping[str, Any] | None = None
        self.prompt_ids: list[int] = []
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.opaque: list[Any] = []
        """A provider's signed thinking, where the caller knows of it."""
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._spelt_ids: list[int] = []
        self._ran = Ran()

    def take(self, chunks: Sequence[Mapping[str, Any] | str]) -> list[Delta]:
        """Take what came together: chunks, and text of chunks that were nothing else.

        Raises:
            ModelError: a chunk is no chunk of a chat completion.
        """
        out: list[Delta] = []
        for chunk in chunks:
            if isinstance(chunk, str):
                self._text.append(chunk)
                out.append(Delta(text=chunk))
                continue
            try:
                out += self.feed(chunk)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise ModelError(
                    f"the server sent what is not its protocol: {str(chunk)[:120]}", cause="broken"
                ) from error
        return out

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Delta]:
        """Take a chunk of the stream."""
        self.model = _text(chunk.get("model")) or self.model
        self.usage = _usage(chunk.get("usage")) or self.usage
        self.prompt_ids = _ids(chunk.get("prompt_token_ids")) or self.prompt_ids
        self._ran.chunk(chunk)
        for choice in chunk.get("choices") or ():
            self.prompt_ids = _ids(choice.get("prompt_token_ids")) or self.prompt_ids
            self.ids += _ids(choice.get("token_ids"))
            self._logprobs(choice.get("logprobs"))
            self.finish = _text(choice.get("finish_reason")) or self.finish
            yield from self._delta(choice.get("delta") or choice.get("message") or {})

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[Delta]:
        thinking = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thinking, str) and thinking:
            self._thinking.append(thinking)
            yield Delta(thinking=thinking)
        if text := _text(delta.get("content")):
            self._text.append(text)
            yield Delta(text=text)
        for n, piece in enumerate(delta.get("tool_calls") or ()):
            made = self._tool_call(piece, n)
            if made is not None:
                yield made
        self._ran.delta(delta)

    def _tool_call(self, piece: Mapping[str, Any], n: int) -> Delta | None:
        index = piece.get("index")
        if not isinstance(index, int):
            index = n
        new = index not in self._calls
        call = self._calls.setdefault(index, _Call())
        function = piece.get("function") or {}
        call.id = call.id or _text(piece.get("id")) or f"call_{index}"
        call.name = call.name or _text(function.get("name"))
        arguments = _text(function.get("arguments"))
        call.arguments.append(arguments)
        if call.served:
            return None
        at = sorted(i for i, c in self._calls.items() if not c.served).index(index)
        return Delta(
            tool_call=ToolCallDelta(at, call.id, call.name, arguments)
            if new
            else ToolCallDelta(at, arguments=arguments)
        )

    def _logprobs(self, logprobs: Mapping[str, Any] | None) -> None:
        for item in (logprobs or {}).get("content") or ():
            self.logprobs.append(float(item["logprob"]))
            token = str(item.get("token", ""))
            if token.startswith("token_id:"):
                self._spelt_ids.append(int(token.removeprefix("token_id:")))

    @property
    def response_ids(self) -> list[int]:
        """Ids of the answer; empty where the server gave none."""
        return self.ids or (self._spelt_ids if len(self._spelt_ids) == len(self.logprobs) else [])

    @property
    def message(self) -> Message:
        """The answer."""
        calls = [
            (call.id, call.name, "".join(call.arguments))
            for _, call in sorted(self._calls.items())
            if not call.served
        ]
        named = [call for call in calls if call[1]]
        said = assistant("".join(self._text), thinking="".join(self._thinking), calls=named)
        if self.opaque:
            said["reasoning_opaque"] = self.opaque
        for _, call in sorted(self._calls.items()):
            if call.served:
                self._ran.call(call.id, call.name, "".join(call.arguments))
        if hosted := self._ran.all():
            said["hosted"] = hosted
        if len(named) < len(calls):
            said["malformed"] = [
                {"text": arguments, "problem": "a tool call without a name"}
                for _, name, arguments in calls
                if not name
            ]
        return said

    def completion(self, **fields: Any) -> Completion:
        """The answer on record, with ids, usage and whatever else its caller knows.

        Raises:
            ModelError: a field is not what the protocol says.
        """
        try:
            return Completion(message=self.message, finish_reason=self.finish_reason, **fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(
                f"the server sent what is not its protocol: {first['loc']}: {first['msg']}",
                cause="broken",
            ) from error

    @property
    def finish_reason(self) -> str:
        """One of a `Completion`'s reasons."""
        if any(not c.served for c in self._calls.values()) and self.finish in ("", "stop"):
            return "tool_calls"
        return FINISH.get(self.finish, "stop")


def _checked(value: Any, kind: type[T]) -> T | None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _text(value: Any) -> str:
    return _checked(value, str) or ""


def _ids(value: Any) -> list[int]:
    ids = _checked(value, list) or []
    if ids and not all(type(id) is int for id in (ids[0], ids[-1])):
        raise TypeError(f"expected token ids, got {ids[:3]}")
    return ids


def _usage(value: Any) -> dict[str, Any]:
    usage = _checked(value, dict) or {}
    for key in ("prompt_tokens", "completion_tokens"):
        _checked(usage.get(key), int)
    return usage
