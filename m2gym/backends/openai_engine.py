"""A self-hosted server as an engine: token ids in, token ids with logprobs out.

With a chat format and the model's tokenizer here, a session's prompts are exact to the token
whatever the server's own chat template does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from m2gym.backends.openai_client import Client
from m2gym.backends.pace import Pace
from m2gym.backends.retry import Retry
from m2gym.backends.wire import sampling_for
from m2gym.core.errors import ModelError
from m2gym.core.protocols import Sampling, TokenOutput

Server = Literal["vllm", "sglang"]

UNBOUNDED = 8192
"""Tokens of an answer without a limit, which servers would cut at 16; the project's choice."""


class OpenAIEngine:
    """vLLM's ``/v1/completions`` or SGLang's ``/generate``, prompts given as ids.

    Args:
        client: the server.
        name: the model's name there; ``None`` for the only one.
        server: which of the two protocols.
        stop_ids: end an answer; they belong to it.

    Logprobs are the server's. They are those of the temperature-scaled full distribution where
    temperature is 1, or where vLLM runs with ``--logprobs-mode processed_logprobs``.
    """

    def __init__(
        self,
        client: Client,
        name: str | None = None,
        *,
        server: Server = "vllm",
        stop_ids: Sequence[int] = (),
        retry: Retry | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.client, self.name, self.server = client, name, server
        self.stop_ids = tuple(stop_ids)
        self.retry, self.pace = retry or Retry(), pace or Pace()
        self.weight_version = 0

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, session_id: str
    ) -> TokenOutput:
        """Generate after ``ids``.

        Raises:
            ModelError: by cause, after the retries that the cause deserves.
            ContextError: the prompt does not fit the model's context.
        """
        failures: dict[str, int] = {}
        call = self._vllm if self.server == "vllm" else self._sglang
        while True:
            try:
                async with self.pace.turn():
                    output = await call(ids, sampling)
                self.pace.used(len(ids) + len(output.ids))
                return output
            except ModelError as error:
                failed = error
            await self.retry.again(failed, failures, self.pace)

    async def _vllm(self, ids: Sequence[int], sampling: Sampling) -> TokenOutput:
        if self.name is None:
            self.name = await self.client.only_model()
        body = {
            "model": self.name,
            "prompt": list(ids),
            "logprobs": 1,
            **sampling_for(sampling, explicit=True),
            "max_tokens": sampling.max_tokens or UNBOUNDED,
        }
        extra: dict[str, Any] = {
            "return_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
        }
        if self.stop_ids:
            extra["stop_token_ids"] = list(self.stop_ids)
        if sampling.top_k:
            extra["top_k"] = sampling.top_k
        with self.client.errors():
            answer = await self.client.api.completions.create(**body, extra_body=extra)
            choice = answer.model_dump()["choices"][0]
            said = choice.get("token_ids")
            if said is None:
                raise ModelError(
                    f"{self.client.base_url} gave no token_ids; vLLM 0.10.2 and later does",
                    cause="refused",
                )
            logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
        return self._output(said, logprobs, choice.get("finish_reason"))

    async def _sglang(self, ids: Sequence[int], sampling: Sampling) -> TokenOutput:
        parameters: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "max_new_tokens": sampling.max_tokens or UNBOUNDED,
            "skip_special_tokens": False,
            "no_stop_trim": True,
        }
        if self.stop_ids:
            parameters["stop_token_ids"] = list(self.stop_ids)
        if sampling.stop:
            parameters["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            parameters["sampling_seed"] = sampling.seed
        body = {
            "input_ids": list(ids),
            "sampling_params": parameters,
            "return_logprob": True,
        }
        with self.client.errors():
            answer: Mapping[str, Any] = await self.client.api.post(
                server_root(self.client.base_url) + "/generate", cast_to=object, body=body
            )
            meta = answer["meta_info"]
            pairs = meta["output_token_logprobs"]
            said = answer.get("output_ids") or [pair[1] for pair in pairs]
            logprobs = [pair[0] for pair in pairs]
            reason = meta.get("finish_reason")
        return self._output(said, logprobs, reason["type"] if isinstance(reason, dict) else reason)

    def _output(
        self, ids: Sequence[int], logprobs: Sequence[float | None], reason: str | None
    ) -> TokenOutput:
        if len(ids) != len(logprobs) or not ids:
            raise ModelError(
                f"{self.client.base_url} gave {len(ids)} token ids and {len(logprobs)} logprobs",
                cause="broken",
            )
        values = tuple(-math.inf if value is None else float(value) for value in logprobs)
        versions = (self.weight_version,) * len(ids)
        return TokenOutput(tuple(ids), values, versions, reason or "stop")

    async def abort(self, session_id: str) -> None:
        """A cancelled call closes its connection, on which the servers abort."""

    async def pause(self) -> None:
        """The server goes on; a trainer that owns it stops it there."""

    async def update_weights(self, version: int) -> None:
        """The server has new weights: tokens from now on carry ``version``."""
        self.weight_version = version

    async def resume(self) -> None:
        """The server was never stopped from here."""


def server_root(base_url: str) -> str:
    """The address without its ``/v1``.

    >>> server_root("http://localhost:30000/v1")
    'http://localhost:30000'
    """
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
