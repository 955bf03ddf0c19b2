"""verl's agent loop: one episode of any scaffold in any environment, as rows of the batch.

The episode is `m2gym.backends.local`'s, task, seed and stage included; only the engine differs: it
is verl's server manager. An episode that cannot be trained on (infrastructure, no finite reward)
becomes a row without a trained token whose ``masked`` says why, so that it is counted and is no
member of its group's mean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from m2gym.backends.local.backend import format_of, rollouts_of
from m2gym.backends.local.rollouts import Rollouts
from m2gym.backends.local.schedule import TaskOrder
from m2gym.backends.train_config import LocalConfig, TrainConfig
from m2gym.backends.verl.api import (
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
    ray,
    register,
)
from m2gym.backends.verl.chains import chains
from m2gym.core.errors import ModelError
from m2gym.core.protocols import Sampling, TokenOutput
from m2gym.forge.records import PoolTrajectory

TRIES = 2
"""Times an episode is begun when infrastructure fails; the project's choice."""


class ServedEngine:
    """`m2gym.core.protocols.Engine` over verl's server manager.

    Pausing and weights are verl's own business: its trainer tells its servers.
    """

    def __init__(self, manager: Any, version: int) -> None:
        self.manager, self.version = manager, version

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, session_id: str
    ) -> TokenOutput:
        """An answer by token ids, from the server that served the session before."""
        asked = {k: v for k, v in vars(sampling).items() if v is not None}
        asked["stop"] = list(sampling.stop)
        try:
            out = await self.manager.generate(
                session_id, prompt_ids=list(ids), sampling_params=asked, session_id=session_id
            )
        except ray.exceptions.RayError as error:
            raise ModelError(f"the rollout server failed: {error}", cause="server") from error
        if out.log_probs is None:
            raise ModelError(
                "the rollout server gave no logprobs; set rollout.calculate_log_probs",
                cause="broken",
            )
        own = out.extra_fields
        versions = own.get("versions") or [own.get("global_steps") or 0] * len(out.token_ids)
        return TokenOutput(
            tuple(out.token_ids), tuple(out.log_probs), tuple(versions), out.stop_reason or "stop"
        )

    async def abort(self, session_id: str) -> None:
        """verl has no abort of one session: the answer ends by its own limit."""

    async def pause(self) -> None:
        """See the class."""

    async def update_weights(self, version: int) -> None:
        """See the class."""

    async def resume(self) -> None:
        """See the class."""


@dataclass(frozen=True)
class _Place:
    """What all episodes of a worker share."""

    config: TrainConfig
    rollouts: Rollouts
    order: TaskOrder
    limit: asyncio.Semaphore


@lru_cache(maxsize=1)
def _place(text: str, folder: str, chat_format: str | None, context: int, workers: int) -> _Place:
    config = TrainConfig(**json.loads(text))
    format = format_of(Path(folder), LocalConfig(format=chat_format))
    rollouts = rollouts_of(config, format, context)
    order = TaskOrder(rollouts.tasks, config.train.seed)
    at_once = max(1, config.train.concurrency // workers)
    return _Place(config, rollouts, order, asyncio.Semaphore(at_once))


@register("m2gym")
class EpisodeLoop(AgentLoopBase):
    """See the module."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> Any:
        """Rows of one episode; ``kwargs`` has ``task``, ``item``, ``stage``, ``session_id``."""
        own = self.config.m2gym
        place = _place(
            own.config, own.folder, own.format, own.context, self.rollout_config.agent.num_workers
        )
        item, member, stage = int(kwargs["item"]), int(kwargs["session_id"]), int(kwargs["stage"])
        version = int(kwargs["global_steps"]) - 1
        engine = ServedEngine(self.server_manager, version)
        sampling = Sampling(
            temperature=float(kwargs["temperature"]),
            max_tokens=place.config.train.max_tokens,
            seed=place.order.seed_of(item, member),
        )
        rollouts: Any = place.rollouts
        async with place.limit:
            for number in range(TRIES):
                # No await between these two: each episode begins in its own stage.
                rollouts.at_stage(stage)
                key = f"{item}/{member}" + (f"/{number}" if number else "")
                episode: PoolTrajectory = await rollouts.episode(
                    engine, str(kwargs["task"]), key, sampling
                )
                if episode.status != "infra_error":
                    break
        return outputs(episode, own.context, version)


def outputs(episode: PoolTrajectory, context: int, version: int) -> list[Any]:
    """Rows of an episode, the final chain last; of a masked one a row of no trained token."""
    fault = episode.fault(max_tokens=context)
    told: dict[str, Any] = {
        "masked": fault or "",
        "m2gym": dict(episode.extra),
        "reward_extra_info": {},
        "tokens": sum(len(c.response_ids) for c in episode.completions),
        "completions": len(episode.completions),
    }
    if fault is not None:
        masked = AgentLoopOutput(
            prompt_ids=[0],
            response_ids=[0],
            response_mask=[0],
            response_logprobs=[0.0],
            reward_score=0.0,
            num_turns=len(episode.completions),
            metrics=AgentLoopMetrics(),
            extra_fields={**told, "min_global_steps": version, "max_global_steps": version},
        )
        return [masked]
    return [
        AgentLoopOutput(
            prompt_ids=chain.prompt_ids,
            response_ids=chain.response_ids,
            response_mask=chain.mask,
            response_logprobs=chain.logprobs,
            reward_score=float(episode.reward or 0.0),
            num_turns=len(episode.completions),
            metrics=AgentLoopMetrics(),
            extra_fields={
                **told,
                "min_global_steps": min(chain.versions),
                "max_global_steps": max(chain.versions),
            },
        )
        for chain in chains(episode.completions)
    ]
