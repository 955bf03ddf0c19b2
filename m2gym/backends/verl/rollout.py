"""Rollout server over the local engine, so that a machine without vLLM trains.

::

    agent loop ── ids ──► Server (own process): model + LocalEngine ── ids, logprobs, versions ──►
                            ▲ weights, whole and strict
    worker with verl's engine: ServerAdapter
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from m2gym.backends.verl.api import BaseRollout, RolloutReplica, TokenOutput, ray
from m2gym.backends.verl.weights import load_strictly

SERVER = "m2gym_server_{rank}"
"""Name of a replica's actor."""


class Server:
    """A Ray actor; sleeps until it is given weights.

    Args:
        path: the model's folder. settings: fields of `LocalConfig`.
    """

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        from m2gym.backends.local.backend import engine_of, format_of
        from m2gym.backends.local.hooked import HookedModel, load_causal
        from m2gym.backends.train_config import LocalConfig

        config = LocalConfig(**settings)
        self.model = load_causal(path, dtype=torch.float32)
        hooked = HookedModel(self.model)
        hooked.check()
        self.format = format_of(Path(path), config)
        self.engine = engine_of(hooked, self.format, config)
        self.rejecting = False

    async def generate(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        sampling_params: dict[str, Any],
        image_data: Any = None,
        video_data: Any = None,
        session_id: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """An answer to token ids; ``sampling_params`` are fields of `Sampling`, and verl's
        ``logprobs`` and ``repetition_penalty``, which are given and 1."""
        from m2gym.core.protocols import Sampling

        known = {k: v for k, v in sampling_params.items() if k in Sampling.__dataclass_fields__}
        known["top_k"] = max(0, known.get("top_k", 0))
        known["stop"] = tuple(known.get("stop", ()))
        out = await self.engine.generate(
            list(prompt_ids), Sampling(**known), session_id=session_id or request_id
        )
        versions = out.weight_versions or (self.engine.version,)
        return TokenOutput(
            token_ids=list(out.ids),
            log_probs=list(out.logprobs),
            stop_reason=out.stop_reason,
            extra_fields={
                "versions": list(out.weight_versions),
                "global_steps": versions[-1],
                "min_global_steps": min(versions),
                "max_global_steps": max(versions),
            },
        )

    async def abort(self, session_id: str) -> None:
        """End a session's answers where they are."""
        await self.engine.abort(session_id)

    async def update_weights(self, weights: dict[str, torch.Tensor], version: int) -> int:
        """Put in all weights; answers under way go on with them. How many tensors came."""
        await self.engine.pause()
        count = load_strictly(self.model, weights)
        await self.engine.update_weights(version)
        await self.engine.resume()
        return count

    async def save(self, path: str) -> None:
        """The weights of the last update in Hugging Face's format, with the tokenizer."""
        self.model.save_pretrained(path)
        tokenizer = getattr(self.format.tokenizer, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(path)

    async def seconds(self) -> float:
        """Of generation, since the start."""
        return self.engine.seconds

    async def sleep(self) -> None:
        """Generate nothing until `update_weights` or `wake_up`."""
        await self.engine.pause()

    async def wake_up(self) -> None:
        await self.engine.resume()

    async def resume_generation(self) -> None:
        await self.engine.resume()

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Nothing is lost by an update of the weights here: answers wait and go on."""
        await self.engine.pause()

    async def clear_kv_cache(self) -> None:
        return None

    async def release_kv_cache(self) -> None:
        return None

    async def resume_kv_cache(self) -> None:
        return None

    async def start_profile(self, **kwargs: Any) -> None:
        return None

    async def stop_profile(self) -> None:
        return None


class Replica(RolloutReplica):
    """verl's handle on a `Server`."""

    async def launch_servers(self) -> None:
        name = SERVER.format(rank=self.replica_rank)
        settings = dict(self.config.engine_kwargs.get("m2gym") or {})
        server = (
            ray.remote(Server)
            .options(name=name, num_cpus=0, max_concurrency=self.max_concurrency)
            .remote(str(self.model_config.path), settings)
        )
        await server.seconds.remote()
        self.servers = [server]
        self._server_handle, self._server_address = server, name


class ServerAdapter(BaseRollout):
    """In the worker of verl's engine: hands its weights to the server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, **kwargs: Any) -> None:
        super().__init__(config, model_config, device_mesh)
        self.server: Any = None

    async def resume(self, tags: list[str]) -> None:
        return None

    async def release(self) -> None:
        return None

    async def update_weights(
        self, weights: Any, wire_format: str = "named_tensors", **kwargs: Any
    ) -> None:
        # The generator gathers shards: every worker walks through it, the first one sends.
        given = {name: value.detach().cpu() for name, value in weights}
        if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
            return
        if self.server is None:
            self.server = ray.get_actor(SERVER.format(rank=0))
        version = int(kwargs.get("global_steps") or 0)
        await asyncio.wrap_future(self.server.update_weights.remote(given, version).future())
