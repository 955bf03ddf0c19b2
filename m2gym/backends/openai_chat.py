"""A self-hosted model through its server's chat completions, with token ids where it gives them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

from m2gym.backends.openai_client import Client
from m2gym.backends.pace import Pace
from m2gym.backends.retry import Retry, retried
from m2gym.backends.wire import Assembler, messages_for, sampling_for, tools_for
from m2gym.core.errors import ModelError
from m2gym.core.protocols import Delta, ModelRequest, Session
from m2gym.core.trajectory import Completion, Usage
from m2gym.models.tokens import common_prefix, held

Tokens = Literal["auto", "require", "off"]


class OpenAIChatModel:
    """A server (vLLM, SGLang, llama.cpp …) turns messages into tokens itself.

    Args:
        client: the server.
        name: the model's name there; ``None`` for the only one.
        tokens: ``auto`` asks for ids and logprobs and does without; ``require`` makes their lack
            a `ModelError`; ``off`` does not ask.
        retry, pace: of all sessions together.

    A prompt whose ids begin with a recorded completion's is recorded as its child; where the
    server wrote the history otherwise (another tokenisation, thinking left out) it is a root, and
    the tokens lost are its ``drift``.
    """

    def __init__(
        self,
        client: Client,
        name: str | None = None,
        *,
        tokens: Tokens = "auto",
        retry: Retry | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.client, self.name, self.tokens = client, name, tokens
        self.retry, self.pace = retry or Retry(), pace or Pace()

    async def stream(self, request: ModelRequest, session: Session) -> AsyncIterator[Delta]:
        """The server's answer as it comes.

        Raises:
            ModelError: by cause, after the retries that the cause deserves.
            ContextError: the prompt does not fit the model's context.
        """
        async for delta in retried(lambda: self._once(request, session), self.retry, self.pace):
            yield delta

    async def _once(self, request: ModelRequest, session: Session) -> AsyncGenerator[Delta, None]:
        if self.name is None:
            self.name = await self.client.only_model()
        whole = Assembler()
        answer = self.client.events.post("chat/completions", self._body(request))
        async with aclosing(answer):
            async for chunks in answer:
                for delta in whole.take(chunks):
                    yield delta
        if not whole.finish:
            raise ModelError(f"the answer of {self.client.base_url} ended half-way", cause="broken")
        completion = self._completion(whole, request, session)
        self.pace.used(completion.usage.prompt_tokens + completion.usage.completion_tokens)
        yield Delta(completion=completion)

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        body = {
            "model": self.name,
            "messages": messages_for(request.messages, thinking=True),
            "stream": request.streamed,
            **sampling_for(request.sampling, explicit=True),
            **tools_for(request, "chat"),
        }
        if request.streamed:
            body["stream_options"] = {"include_usage": True}
        if request.sampling.top_k:
            body["top_k"] = request.sampling.top_k
        if self.tokens != "off":
            body["logprobs"] = True
            body["return_token_ids"] = True
        return body

    def _completion(self, whole: Assembler, request: ModelRequest, session: Session) -> Completion:
        prompt, ids, logprobs = whole.prompt_ids, whole.response_ids, whole.logprobs
        if self.tokens == "require" and not (prompt and ids and len(ids) == len(logprobs)):
            raise ModelError(
                f"{self.client.base_url} gave {len(prompt)} prompt ids, {len(ids)} ids and "
                f"{len(logprobs)} logprobs; use a server that returns token ids (vLLM 0.10.2 and "
                "later), or a tokenizer= in the model's specification",
                cause="refused",
            )
        parent, drift = request.parent, 0
        if not (prompt and ids):
            prompt, ids, logprobs = [], [], []
        elif parent is not None:
            before = held(session.completions, parent)
            shared = common_prefix(before, prompt)
            if before and shared == len(before):
                prompt = prompt[shared:]
            else:
                parent, drift = None, len(before) - shared
        used = whole.usage or {}
        return whole.completion(
            prompt_ids=tuple(prompt),
            response_ids=tuple(ids),
            logprobs=tuple(logprobs) if len(logprobs) == len(ids) else (),
            parent=parent,
            drift=drift,
            model=whole.model or self.name,
            usage=Usage(
                prompt_tokens=used.get("prompt_tokens") or len(whole.prompt_ids),
                completion_tokens=used.get("completion_tokens") or len(ids),
            ),
        )
