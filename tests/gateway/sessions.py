"""A session whose model says what it was told to, for tests of the gateway alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from m2gym.core.protocols import Delta, ModelRequest, ToolCallDelta
from m2gym.core.trajectory import Completion, Usage


@dataclass
class Say:
    """One turn, said in pieces of ``step`` characters; ``error`` comes after ``cut`` pieces."""

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    finish: str = ""
    usage: tuple[int, int] = (11, 7)
    step: int = 4
    error: Exception | None = None
    cut: int = 0
    pause: float = 0.0
    whole: bool = False

    def message(self) -> dict[str, Any]:
        out: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.thinking:
            out["reasoning_content"] = self.thinking
        if self.calls:
            out["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": n, "arguments": a}}
                for i, n, a in self.calls
            ]
        return out

    def completion(self) -> Completion:
        finish = self.finish or ("tool_calls" if self.calls else "stop")
        prompt, said = self.usage
        return Completion(
            message=self.message(),
            finish_reason=finish,
            model="scripted",
            usage=Usage(prompt_tokens=prompt, completion_tokens=said),
        )

    def deltas(self) -> list[Delta]:
        if self.whole:
            return []
        out = [Delta(thinking=p) for p in self._pieces(self.thinking)]
        out += [Delta(text=p) for p in self._pieces(self.text)]
        for index, (id, name, arguments) in enumerate(self.calls):
            out.append(Delta(tool_call=ToolCallDelta(index, id, name)))
            out += [
                Delta(tool_call=ToolCallDelta(index, arguments=p)) for p in self._pieces(arguments)
            ]
        return out

    def _pieces(self, text: str) -> list[str]:
        return [text[at : at + self.step] for at in range(0, len(text), self.step)]


@dataclass
class Talk:
    """Answers a request by the number of assistant turns it holds; the last turn repeats."""

    turns: list[Say]
    id: str = "talk"
    requests: list[ModelRequest] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    cancelled: int = 0
    gate: asyncio.Event | None = None

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta]:
        self.requests.append(request)
        said = sum(m["role"] == "assistant" for m in request.messages)
        turn = self.turns[min(said, len(self.turns) - 1)]
        try:
            if self.gate is not None:
                await self.gate.wait()
            for number, delta in enumerate(turn.deltas()):
                if turn.error is not None and number >= turn.cut:
                    raise turn.error
                yield delta
                if turn.pause:
                    await asyncio.sleep(turn.pause)
            if turn.error is not None:
                raise turn.error
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        completion = turn.completion()
        self.completions.append(completion)
        yield Delta(completion=completion)

    async def complete(self, request: ModelRequest) -> Completion:
        async for delta in self.stream(request):
            if delta.completion is not None:
                return delta.completion
        raise AssertionError("the stream ends in a completion")
