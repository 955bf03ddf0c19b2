"""The least a client of each dialect does: keep its history as the provider's own form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from m2gym.core.protocols import Delta, ModelRequest
from m2gym.core.trajectory import Completion
from m2gym.gateway import chat, gemini, messages, responses
from m2gym.gateway.call import Call
from m2gym.gateway.repeats import Repeats
from m2gym.gateway.routes import route
from tests.gateway.sessions import Say

TOOL = {"type": "object", "properties": {"x": {"type": "string"}}}
NAMES = ("look", "put")


def events(raw: bytes) -> Iterator[dict[str, Any]]:
    """The JSON of a stream's events."""
    for block in raw.decode().split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line[6:])


class Client:
    """Sends requests through the pure half of the gateway and keeps the answers as history."""

    dialect: Any
    path: str

    def __init__(self, system: str) -> None:
        self.system = system
        self.history: list[dict[str, Any]] = []
        self.repeats = Repeats(small=0)

    def ask(self, say: Say, *, stream: bool) -> ModelRequest:
        """One turn: the request as the model gets it; the answer goes into the history."""
        call = self.request(stream=stream)
        self.answer(call, say.deltas(), say.completion())
        return call.request

    def request(self, *, stream: bool) -> Call:
        """The next request as the gateway reads it."""
        call = self.repeats.read(json.dumps(self.body()).encode(), route("POST", self.path))
        return replace(call, stream=stream, request=replace(call.request, constant=True))

    def answer(self, call: Call, deltas: list[Delta], completion: Completion) -> None:
        """Take the answer as the gateway writes it."""
        if call.stream:
            encoder = self.dialect.encoder(call, "id1", 0)
            raw = encoder.begin() + b"".join(map(encoder.delta, deltas))
            self.take_stream(list(events(raw + encoder.end(completion))))
        else:
            self.take(json.loads(json.dumps(self.dialect.answer(call, completion, "id1", 0))))

    def body(self) -> dict[str, Any]:
        raise AssertionError

    def say(self, text: str) -> None:
        raise AssertionError

    def results(self, results: list[tuple[str, str, str]]) -> None:
        """Results of calls: id, name, text."""
        raise AssertionError

    def take(self, answer: dict[str, Any]) -> None:
        raise AssertionError

    def take_stream(self, seen: list[dict[str, Any]]) -> None:
        raise AssertionError


class ChatClient(Client):
    dialect = chat
    path = "/v1/chat/completions"

    def body(self):
        system = [{"role": "system", "content": self.system}]
        tools = [{"type": "function", "function": {"name": n, "parameters": TOOL}} for n in NAMES]
        messages = system + self.history
        return {"model": "m", "messages": messages, "tools": tools, "max_completion_tokens": 99}

    def say(self, text):
        self.history.append({"role": "user", "content": text})

    def results(self, results):
        for id, _, text in results:
            self.history.append({"role": "tool", "tool_call_id": id, "content": text})

    def take(self, answer):
        self.history.append(answer["choices"][0]["message"])

    def take_stream(self, seen):
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        calls: dict[int, dict[str, Any]] = {}
        for event in seen:
            for choice in event["choices"]:
                delta = choice["delta"]
                message["content"] += delta.get("content") or ""
                if "reasoning_content" in delta:
                    message.setdefault("reasoning_content", "")
                    message["reasoning_content"] += delta["reasoning_content"]
                for piece in delta.get("tool_calls", ()):
                    if piece["index"] not in calls:
                        calls[piece["index"]] = {k: v for k, v in piece.items() if k != "index"}
                    else:
                        held = calls[piece["index"]]["function"]
                        held["arguments"] += piece["function"]["arguments"]
        if calls:
            message["tool_calls"] = list(calls.values())
        self.history.append(message)


class ResponsesClient(Client):
    dialect = responses
    path = "/v1/responses"

    def body(self):
        tools = [{"type": "function", "name": n, "parameters": TOOL} for n in NAMES]
        return {
            "model": "m", "instructions": self.system, "input": self.history, "tools": tools,
            "store": False, "max_output_tokens": 99,
        }  # fmt: skip

    def say(self, text):
        content = [{"type": "input_text", "text": text}]
        self.history.append({"type": "message", "role": "user", "content": content})

    def results(self, results):
        for id, _, text in results:
            self.history.append({"type": "function_call_output", "call_id": id, "output": text})

    def take(self, answer):
        for item in answer["output"]:
            if item["type"] == "reasoning":
                item = {**item, "summary": []}
            self.history.append({k: v for k, v in item.items() if k != "id"})

    def take_stream(self, seen):
        done = [e["item"] for e in seen if e["type"] == "response.output_item.done"]
        assert seen[-1]["response"]["output"] == done
        assert [e["sequence_number"] for e in seen] == list(range(len(seen)))
        self.take({"output": done})


class MessagesClient(Client):
    dialect = messages
    path = "/v1/messages"

    def body(self):
        tools = [{"name": n, "input_schema": TOOL} for n in NAMES]
        marked = json.loads(json.dumps(self.history))
        return {
            "model": "m", "max_tokens": 99, "system": [{"type": "text", "text": self.system}],
            "messages": marked, "tools": tools, "thinking": {"type": "adaptive"},
        }  # fmt: skip

    def say(self, text):
        block = {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
        self.history.append({"role": "user", "content": [block]})

    def results(self, results):
        content = [
            {"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": text}]}
            for id, _, text in results
        ]
        self.history.append({"role": "user", "content": content})

    def take(self, answer):
        self.history.append({"role": "assistant", "content": answer["content"]})

    def take_stream(self, seen):
        blocks: list[dict[str, Any]] = []
        partial = ""
        for event in seen:
            if event["type"] == "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"])
                partial = ""
            elif event["type"] == "content_block_delta":
                delta = event["delta"]
                if delta["type"] == "input_json_delta":
                    partial += delta["partial_json"]
                else:
                    key = delta["type"].removesuffix("_delta")
                    blocks[-1][key] += delta[key]
            elif event["type"] == "content_block_stop" and blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = json.loads(partial or "{}")
        self.history.append({"role": "assistant", "content": blocks})


class GeminiClient(Client):
    dialect = gemini
    path = "/v1beta/models/m:generateContent"

    def body(self):
        declared = [{"name": n, "parametersJsonSchema": TOOL} for n in NAMES]
        return {
            "systemInstruction": {"parts": [{"text": self.system}]},
            "contents": self.history,
            "tools": [{"functionDeclarations": declared}],
            "generationConfig": {"maxOutputTokens": 99},
        }

    def say(self, text):
        self.history.append({"role": "user", "parts": [{"text": text}]})

    def results(self, results):
        parts = [
            {"functionResponse": {"name": name, "response": {"output": text}}}
            for _, name, text in results
        ]
        self.history.append({"role": "user", "parts": parts})

    def take(self, answer):
        parts = [p for p in answer["candidates"][0]["content"]["parts"] if not p.get("thought")]
        for part in parts:
            part.get("functionCall", {}).pop("id", None)
        self.history.append({"role": "model", "parts": parts})

    def take_stream(self, seen):
        parts = [p for e in seen for p in e["candidates"][0]["content"]["parts"]]
        self.take({"candidates": [{"content": {"parts": parts}}]})


CLIENTS = (ChatClient, ResponsesClient, MessagesClient, GeminiClient)
