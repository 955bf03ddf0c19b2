"""Where episodes come from: an environment that an agent acts in, or prompts with a reward."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from m2gym.backends.local.behaviour import extras
from m2gym.backends.local.process import reward_of
from m2gym.backends.train_config import ProcessConfig
from m2gym.core.errors import BudgetError, InputError
from m2gym.core.protocols import Delta, Engine, Model, ModelRequest, Sampling, Scaffold, Session
from m2gym.core.task import Mount
from m2gym.core.trajectory import Trajectory
from m2gym.forge.records import PoolCompletion, PoolTrajectory
from m2gym.models.chat_format import TurnFormat
from m2gym.models.session import override
from m2gym.models.token_model import TokenModel
from m2gym.models.tokens import full_prompt
from m2gym.rollout.driver import Attempt, run_episode
from m2gym.scaffolds.blackbox.contract import mounts_of


class Rollouts(Protocol):
    """Tasks by id, and one episode of one of them under the engine's weights."""

    tasks: Sequence[str]
    held_out: Sequence[str]

    async def episode(
        self, engine: Engine, task: str, key: str, sampling: Sampling
    ) -> PoolTrajectory:
        """Attempt ``task``; the result is named ``key``."""
        ...


@dataclass
class PromptRollouts:
    """One answer a task: ``prompts`` are token ids by task, ``reward`` judges an answer's ids.

    The reward sees the answer alone, never the prompt. A prompt that fills the context is masked.
    """

    prompts: Mapping[str, Sequence[int]]
    reward: Callable[[str, Sequence[int]], float]
    tasks: Sequence[str] = ()
    held_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.tasks = tuple(self.tasks or self.prompts)
        if not self.tasks:
            raise InputError("expected at least one prompt, got none")

    async def episode(
        self, engine: Engine, task: str, key: str, sampling: Sampling
    ) -> PoolTrajectory:
        prompt = self.prompts[task]
        try:
            out = await engine.generate(prompt, sampling, session_id=key)
        except BudgetError as error:
            return PoolTrajectory(key, (), None, error.stop, task=task, extra={"error": str(error)})
        completion = PoolCompletion(
            np.array(prompt, np.int32),
            np.array(out.ids, np.int32),
            np.array(out.logprobs, np.float32),
            np.array(out.weight_versions, np.int32),
        )
        return PoolTrajectory(key, (completion,), self.reward(task, out.ids), task=task)


@dataclass
class EpisodeRollouts:
    """Episodes of an environment by the driver; the agent's model is the engine's.

    ``first`` says environment, taskset, agent and workspace; its task and model are replaced.
    ``stages`` are the agents of a run's stages; an agent with ``at_update(n)`` changes with the
    updates done. ``process`` asks for each completion's own reward.
    """

    first: Attempt
    format: TurnFormat
    tasks: Sequence[str]
    held_out: Sequence[str] = ()
    context: int | None = None
    stages: Sequence[Scaffold] = ()
    process: ProcessConfig | None = None
    stage: int = field(default=0, init=False)
    _mounts: dict[int, tuple[Mount, ...]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def at_stage(self, index: int) -> None:
        """Episodes from now on are of that stage."""
        self.stage = index

    async def episode(
        self, engine: Engine, task: str, key: str, sampling: Sampling
    ) -> PoolTrajectory:
        model = TokenModel(engine, self.format, name="policy", context=self.context)
        scaffold: Any = self.stages[self.stage] if self.stages else self.first.scaffold
        if hasattr(scaffold, "at_update"):
            scaffold = scaffold.at_update(getattr(engine, "version", 0))
        attempt = replace(
            self.first,
            scaffold=scaffold,
            task=self.first.taskset.task(task),
            answers=Forced(model, sampling),
            model="policy",
            seed=sampling.seed,
            mounts=await asyncio.to_thread(self._needed, scaffold),
        )
        done = await run_episode(attempt)
        episode = pooled(done, key, self.process)
        return replace(episode, extra=extras(done, attempt.task, scaffold, self.format))

    def _needed(self, scaffold: Any) -> tuple[Mount, ...]:
        """What the agent needs in its box, installed once."""
        with self._lock:
            if id(scaffold) not in self._mounts:
                self._mounts[id(scaffold)] = mounts_of(scaffold)
            return self._mounts[id(scaffold)]


@dataclass
class Forced:
    """A model that samples as the trainer says, whatever the agent asks for."""

    model: Model
    sampling: Sampling

    def stream(self, request: ModelRequest, session: Session) -> AsyncIterator[Delta]:
        sampling = override(request.sampling, self.sampling)
        return self.model.stream(replace(request, sampling=sampling), session)


def pooled(
    trajectory: Trajectory, key: str, process: ProcessConfig | None = None
) -> PoolTrajectory:
    """An episode for the pool: every completion with its whole prompt, and its own reward."""
    record = trajectory.completions
    completions = tuple(
        replace(
            PoolCompletion.of(completion),
            prompt_ids=np.array(full_prompt(record, n), dtype=np.int32),
            process_reward=0.0 if process is None else reward_of(completion, process),
        )
        for n, completion in enumerate(record)
        if completion.response_ids
    )
    return replace(PoolTrajectory.of(trajectory), key=key, completions=completions)
