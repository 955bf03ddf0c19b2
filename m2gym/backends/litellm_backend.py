"""Any provider by LiteLLM's names: ``anthropic/claude-…``, ``openai/gpt-…``, ``ollama/…``.

Keys are read by LiteLLM from each provider's own environment variables.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from m2gym.backends.hosted import FAMILIES, given_back
from m2gym.backends.openai_errors import error_of
from m2gym.backends.options import Readers, count, positive, read_options, yes
from m2gym.backends.pace import Pace
from m2gym.backends.retry import Retry, retried
from m2gym.backends.wire import (
    Assembler,
    messages_for,
    sampling_for,
    tools_for,
)
from m2gym.core.errors import ContextError, InputError, ModelError
from m2gym.core.protocols import Delta, Model, ModelRequest, Session
from m2gym.core.trajectory import Usage

TIMEOUT = 600.0
"""Seconds a call may take; the project's choice."""

SEND_THINKING = frozenset(
    {"deepseek", "hosted_vllm", "minimax", "moonshot", "ollama_chat", "openrouter", "zai"}
)
"""Providers whose messages take ``reasoning_content`` back; others may refuse the unknown field.
The project's choice; ``thinking=`` in a specification overrides it. Signed thinking (Anthropic,
Bedrock, Vertex) goes back to whoever gave it."""

NO_TOP_K = frozenset({"openai", "azure", "groq", "mistral", "xai", "deepseek"})
"""Providers that refuse ``top_k``, which OpenAI's protocol does not have; the project's choice."""

OPTIONS: Readers = {
    "api_base": str,
    "rpm": positive,
    "tpm": positive,
    "concurrency": count,
    "timeout": positive,
    "thinking": yes,
    "reasoning_effort": str,
}


def load_litellm() -> Any:
    """The package, quiet, with the price list that it ships (nothing is fetched at import).

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ModuleNotFoundError as error:
        raise InputError(
            "models by LiteLLM's names need it: pip install 'm2gym[models]'"
        ) from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


class LiteLLMModel:
    """A provider's model.

    Args:
        name: LiteLLM's name, ``PROVIDER/MODEL``.
        retry, pace: of all sessions together.
        send_thinking: give earlier thinking back; by default where `SEND_THINKING` has the
            provider.
        options: passed on to ``litellm.acompletion`` (``api_base``, ``api_key``, …).

    Raises:
        InputError: LiteLLM knows no provider of that name, or is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        retry: Retry | None = None,
        pace: Pace | None = None,
        send_thinking: bool | None = None,
        timeout: float = TIMEOUT,
        **options: Any,
    ) -> None:
        self.name, self.timeout, self.options = name, timeout, options
        self.retry, self.pace = retry or Retry(), pace or Pace()
        self.litellm = load_litellm()
        try:
            found = self.litellm.get_llm_provider(name, api_base=options.get("api_base"))
        except self.litellm.exceptions.BadRequestError as error:
            raise InputError(
                f"LiteLLM knows no provider for {name!r}; expected PROVIDER/MODEL, such as "
                "openai/gpt-5 or anthropic/claude-sonnet-4-5"
            ) from error
        self.provider = str(found[1])
        self._check_key()
        self.send_thinking = (
            self.provider in SEND_THINKING if send_thinking is None else send_thinking
        )
        self._takes = frozenset(
            self.litellm.get_supported_openai_params(
                model=str(found[0]), custom_llm_provider=self.provider
            )
            or ()
        )
        self._told: set[str] = set()

    def _check_key(self) -> None:
        """`InputError` where the provider wants a key and neither we nor LiteLLM have one.

        Providers that may be reached by other means (a cloud's own identity) are left to try.
        """
        if {"api_key", "api_base"} & self.options.keys() or self.litellm.api_key:
            return
        missing = self.litellm.validate_environment(self.name)["missing_keys"]
        if missing and all(name.endswith(("_API_KEY", "_TOKEN")) for name in missing):
            raise InputError(f"model {self.name!r} needs a key: set {' and '.join(missing)}")

    async def stream(self, request: ModelRequest, session: Session) -> AsyncIterator[Delta]:
        """The provider's answer as it comes.

        Raises:
            ModelError: by cause, after the retries that the cause deserves.
            ContextError: the prompt does not fit the model's context.
        """
        async for delta in retried(lambda: self._once(request), self.retry, self.pace):
            yield delta

    async def _once(self, request: ModelRequest) -> AsyncGenerator[Delta, None]:
        whole = Assembler()
        kept: list[Any] = []
        with self._errors(whole):
            chunks = await self.litellm.acompletion(**self._body(request))
            async for chunk in chunks:
                kept.append(chunk)
                for delta in whole.feed(chunk.model_dump()):
                    yield delta
        if not whole.finish:
            raise ModelError(f"the answer of {self.name} ended half-way", cause="broken")
        used = whole.usage or {}
        built = self.litellm.stream_chunk_builder(kept, messages=list(request.messages))
        usage = Usage(
            prompt_tokens=used.get("prompt_tokens") or 0,
            completion_tokens=used.get("completion_tokens") or 0,
            cost_usd=self._cost(built),
        )
        whole.opaque = _signed(built)
        self.pace.used(usage.prompt_tokens + usage.completion_tokens)
        yield Delta(completion=whole.completion(model=self.name, usage=usage))

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        messages = messages_for(request.messages, thinking=self.send_thinking)
        for out, message in zip(messages, request.messages, strict=True):
            signed = [b for b in message.get("reasoning_opaque", ()) if _is_thinking(b)]
            if signed:
                out["thinking_blocks"] = signed
            if self.provider == "anthropic":
                out |= given_back(message)
        return {
            "model": self.name,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "num_retries": 0,
            "max_retries": 0,
            "timeout": self.timeout,
            "drop_params": True,
            **self._sampling(request),
            **self._tools(request),
            **self.options,
        }

    def _sampling(self, request: ModelRequest) -> dict[str, Any]:
        """What the provider takes of it; the rest is left out, and said once.

        LiteLLM itself leaves out *values* that a model refuses (a temperature of a reasoning one).
        """
        asked = sampling_for(request.sampling, explicit=False)
        if request.sampling.top_k:
            asked["top_k"] = request.sampling.top_k
        refused = [key for key in asked if not self._can(key)]
        for key in refused:
            del asked[key]
            self._tell(f"{self.name} takes no {key}: it is left out")
        return asked

    def _can(self, field: str) -> bool:
        if field == "top_k":
            return self.provider not in NO_TOP_K
        names = (field, "max_completion_tokens") if field == "max_tokens" else (field,)
        return not self._takes or any(name in self._takes for name in names)

    def _tools(self, request: ModelRequest) -> dict[str, Any]:
        if request.tools and not self._can("tools"):
            raise ModelError(f"LiteLLM knows no tools of {self.name}", cause="refused")
        search = self._can("web_search_options")
        return tools_for(request, FAMILIES.get(self.provider, "chat"), web_search=search)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            warnings.warn(text, stacklevel=2)

    def _cost(self, built: Any) -> float:
        try:
            return float(self.litellm.completion_cost(built, model=self.name) or 0.0)
        except (self.litellm.exceptions.ModelNotMappedError, self.litellm.BadRequestError):
            self._tell(
                f"LiteLLM has no price for {self.name}: its cost counts as 0, and a budget in USD "
                "does not bound it"
            )
            return 0.0

    @contextmanager
    def _errors(self, whole: Assembler) -> Iterator[None]:
        known = self.litellm.exceptions
        openai = importlib.import_module("openai")
        try:
            yield
        except known.ContextWindowExceededError as error:
            raise ContextError(
                f"the prompt is too long for {self.name}: {error.message}"
            ) from error
        except known.MidStreamFallbackError as error:
            raise ModelError(
                f"the answer of {self.name} broke off: {error.message}", cause="broken"
            ) from error
        except known.Timeout as error:
            raise ModelError(
                f"{self.name} did not answer in {self.timeout:g} s", cause="timeout"
            ) from error
        except openai.APIStatusError as error:
            answer = getattr(error, "response", None)
            headers = getattr(answer, "headers", None) or getattr(
                error, "litellm_response_headers", None
            )
            raise error_of(error.status_code, str(error.message), headers) from error
        except openai.APIConnectionError as error:
            raise ModelError(f"{self.name}: {error.message}", cause="network") from error
        except openai.APIError as error:
            cause = "broken" if whole.model else "server"
            raise ModelError(f"{self.name}: {error.message}", cause=cause) from error


def _signed(built: Any) -> list[Any]:
    """Signed thinking of a whole answer, to be given back with the next request."""
    blocks = getattr(built.choices[0].message, "thinking_blocks", None) or ()
    return [block for block in map(dict, blocks) if _is_thinking(block)]


def _is_thinking(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking")


class LiteLLMBackend:
    """Any provider by LiteLLM's names (``PROVIDER/MODEL``); the backend of every other name.

    Options may follow: ``NAME?rpm=60&tpm=200000&concurrency=8&api_base=URL&timeout=120``,
    ``thinking`` (give earlier thinking back), ``reasoning_effort``.
    """

    def model(self, spec: str) -> Model:
        """The model of a specification; nothing is called yet."""
        name, _, query = spec.partition("?")
        options = read_options(query, OPTIONS)
        pace = Pace(
            options.pop("rpm", None), options.pop("tpm", None), options.pop("concurrency", None)
        )
        return LiteLLMModel(
            name,
            pace=pace,
            send_thinking=options.pop("thinking", None),
            timeout=options.pop("timeout", TIMEOUT),
            **options,
        )
