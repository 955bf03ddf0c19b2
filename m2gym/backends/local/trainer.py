"""The loop: generate, train, log, save.

    admit ─► episodes of a group ─► pool ─► claim ─► update ─► new weights ─► log ─► checkpoint
      ▲                                                           │
      └───────────── generation is at most `lag` updates ahead ───┘

The run's folder holds ``config.yaml``, ``pool.db`` (finished groups), ``metrics.jsonl``,
``checkpoints/`` and, at the end, ``model/`` in Hugging Face's format (``adapter/`` with LoRA).
What was generated before a crash is in the pool and is not generated again; updates after the last
checkpoint are done again on the same groups. So a resumed run gives the numbers of an uninterrupted
one, bit for bit where episodes are `PromptRollouts`; episodes in boxes that were not finished may
come out differently, since the order in which boxes answer is not ours.
"""

from __future__ import annotations

import asyncio
import copy
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from m2gym.backends.local import checkpoint
from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.learner import Graded, Learner, graded
from m2gym.backends.local.metrics import MetricsFile, Row, anomalies
from m2gym.backends.local.optimiser import MasterAdamW, rate
from m2gym.backends.local.rollouts import Rollouts
from m2gym.backends.local.schedule import Plan, TaskOrder
from m2gym.backends.train_config import TrainConfig, local_config
from m2gym.core.errors import InfraError, InputError
from m2gym.core.protocols import Sampling
from m2gym.forge.pool import DataPool
from m2gym.forge.records import PoolTrajectory

MAY_CHANGE = {
    "out": None,
    "train": {"steps", "save_every", "keep", "eval_every", "eval_tasks", "stop_at", "concurrency"},
}
"""Fields that a resumed run may have other values of. ``steps`` moves the end of a decay."""

EMPTY_ROUNDS = 3
"""Rounds of generation without one usable episode after which the run stops; ours."""

LEASE = 1e-3
"""Seconds of the pool's lease: the run folder's lock is what keeps a second trainer out."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, a row a step, and the held-out reward where it was measured."""

    out: Path
    rows: tuple[Row, ...]
    held_out: float | None

    @property
    def model(self) -> Path:
        """The trained weights, in Hugging Face's format."""
        return self.out / "model"


class LocalTrainer:
    """Trains ``model`` in place.

    Args:
        config: of the run; its ``out`` names the folder.
        model: a Hugging Face causal model (with peft's adapters, or plain).
        rollouts: where episodes come from.
        engine: made from ``model`` when left out; otherwise over it.
        resume: go on from the newest checkpoint in the folder.
        told: called with each step's row.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: HookedModel,
        rollouts: Rollouts,
        *,
        engine: LocalEngine | None = None,
        resume: bool = False,
        told: Callable[[Row], None] = lambda row: None,
    ) -> None:
        if config.out is None:
            raise InputError("a training run needs its folder: out=…")
        local = local_config(config.backend)
        self.config, self.settings, self.out = config, config.train, config.out
        self.model, self.rollouts, self.told = model, rollouts, told
        self.resume = resume
        self.optimiser = MasterAdamW(model.model, config.train)
        self.learner = Learner(
            model,
            config.algorithm,
            self.optimiser,
            temperature=config.train.temperature,
            micro_tokens=local.micro_tokens,
        )
        self.engine = engine or LocalEngine(
            model, rows=local.rows, kv_tokens=local.kv_tokens, context=local.context
        )
        self.order = TaskOrder(rollouts.tasks, config.train.seed)
        self.plan = Plan(config.algorithm.schedule, config.train.groups)
        self.metrics = MetricsFile(self.out / "metrics.jsonl")
        self.step = 0
        self.rows: list[Row] = []
        self.held_out: float | None = None
        self._claims: list[int] = []
        self._in_pool: dict[str, bool] = {}

    async def run(self) -> TrainResult:
        """Train to the last step.

        Raises:
            InputError: the folder holds another run, or another configuration's.
            InfraError: no episode could be graded, a damaged checkpoint, no memory.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with _held(self.out / "lock"):
            self._begin()
            size, most = self.settings.group_size, self.engine.context
            path = self.out / "pool.db"
            with DataPool(
                path, group_size=size, vocabulary=self.model.vocabulary, max_tokens=most
            ) as self.pool:
                self._in_pool = _usable(self.pool)
                self.lease = self.pool.attach("local", trained=self._claims, lease=LEASE)
                await self.engine.update_weights(self.step)
                while self.step < self.settings.steps and not self._reached():
                    await self._step()
                self._save()
        _export(self.model, self.out / "model")
        return TrainResult(self.out, tuple(self.rows), self.held_out)

    async def _step(self) -> None:
        begun = time.perf_counter()
        batch = await self._generate()
        generated = time.perf_counter()
        claim = self.lease.claim(self.settings.groups)
        if claim is None or len(claim.groups) != self.settings.groups:
            raise InfraError("the pool and the schedule do not agree; begin a new run")
        self._claims.append(claim.id)
        data = graded(claim.groups, self.config.algorithm)
        stats = self._update(data)
        updated = time.perf_counter()
        self.plan.release(batch)
        self.step += 1
        await self.engine.update_weights(self.step)
        row: Row = {
            "step": self.step,
            "lr": rate(self.settings, self.step - 1),
            **data.stats,
            **stats,
            "dropped_groups": float(len(self.plan.dropped)),
            "masked_episodes": float(len(claim.groups) * self.settings.group_size)
            - data.stats["episodes"],
        }
        if self.settings.eval_every and self.step % self.settings.eval_every == 0:
            row["held_out"] = self.held_out = await self.evaluate()
        row["anomalies"] = anomalies(row, self.rows)
        row["seconds_generate"] = generated - begun
        row["seconds_update"] = updated - generated
        row["seconds"] = time.perf_counter() - begun
        row["tokens_per_second"] = row["tokens"] / row["seconds"]
        self.rows.append(row)
        self.metrics.append(row)
        self.told(row)
        if self.step % self.settings.save_every == 0:
            self._save()

    def _update(self, data: Graded) -> dict[str, float]:
        try:
            return self.learner.update(data, self.step, rate(self.settings, self.step))
        except torch.OutOfMemoryError as error:
            raise InfraError(
                f"an update needs more memory than there is ({error}); lower backend.micro_tokens, "
                "or set backend.checkpointing or backend.lora"
            ) from error

    async def _generate(self) -> Any:
        empty = 0
        while True:
            items = self.plan.admit()
            usable = 0
            limit = asyncio.Semaphore(self.settings.concurrency)
            groups = [asyncio.create_task(self._group(item, limit)) for item in items]
            try:
                for item, group in zip(items, groups, strict=True):
                    episodes = await group
                    name = str(item)
                    if episodes is not None:
                        self.pool.put(episodes)
                        self._in_pool[name] = any(self._fit(e) for e in episodes)
                    usable += self._in_pool[name]
                    self.plan.generated(item, self._in_pool[name])
            finally:
                for group in groups:
                    group.cancel()
                await asyncio.gather(*groups, return_exceptions=True)
            batch = self.plan.poll()
            if batch is not None:
                return batch
            empty = 0 if usable else empty + 1
            if empty == EMPTY_ROUNDS:
                raise InfraError(
                    f"no episode of {EMPTY_ROUNDS} rounds could be graded: {self.pool.faults()}"
                )

    async def _group(self, item: int, limit: asyncio.Semaphore) -> list[PoolTrajectory] | None:
        """Episodes of an item; ``None`` where the pool has them already."""
        name = str(item)
        if name in self._in_pool:
            return None

        async def one(member: int) -> PoolTrajectory:
            async with limit:
                episode = await self.rollouts.episode(
                    self.engine,
                    self.order.task(item),
                    f"{name}/{member}",
                    self._sampling(self.order.seed_of(item, member)),
                )
            return replace(episode, group=name)

        return list(await asyncio.gather(*(one(m) for m in range(self.settings.group_size))))

    async def evaluate(self) -> float:
        """Mean reward of held-out tasks, one episode each, sampled as in training.

        Episodes that could not be graded do not count; NaN where none could.
        """
        tasks = list(self.rollouts.held_out)[: self.settings.eval_tasks]
        if not tasks:
            raise InputError("train.eval_every is set, but there are no held-out tasks")
        episodes = await asyncio.gather(
            *(
                self.rollouts.episode(self.engine, task, f"eval-{self.step}/{n}", self._sampling(n))
                for n, task in enumerate(tasks)
            )
        )
        rewards = [e.reward for e in episodes if self._fit(e) and e.reward is not None]
        return sum(rewards) / len(rewards) if rewards else math.nan

    def _sampling(self, seed: int) -> Sampling:
        s = self.settings
        return Sampling(temperature=s.temperature, max_tokens=s.max_tokens, seed=seed)

    def _fit(self, episode: PoolTrajectory) -> bool:
        return episode.fault(self.model.vocabulary, self.engine.context) is None

    def _reached(self) -> bool:
        goal, last = self.settings.stop_at, self.held_out
        return goal is not None and last is not None and last >= goal

    def _begin(self) -> None:
        path = self.out / "config.yaml"
        if not self.resume:
            if path.exists():
                raise InputError(f"{self.out} holds a run already; resume it, or name another")
            path.write_text(self.config.text(), "utf-8")
            return
        if not path.exists():
            raise InputError(f"{self.out} holds no run to resume")
        changed = changes(TrainConfig.load(path), self.config)
        if changed:
            raise InputError(f"the run in {self.out} had other values of {', '.join(changed)}")
        state = checkpoint.load(self.out / "checkpoints")
        if state is not None:
            self.step, self._claims = state["step"], state["claims"]
            self.held_out = state["held_out"]
            self.optimiser.load(state["optimiser"])
            self.plan.replay(self.step, state["dropped"])
            self.plan.dropped = list(state["dropped"])
        self.rows = self.metrics.keep(self.step)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "claims": self._claims,
            "held_out": self.held_out,
            "dropped": list(self.plan.dropped),
            "optimiser": self.optimiser.state(),
        }
        checkpoint.save(self.out / "checkpoints", self.step, state, keep=self.settings.keep)
        for claim in self._claims:
            self.lease.commit(claim)
        self._claims = []


def changes(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Fields that differ and may not."""
    a, b = old.model_dump(mode="json"), new.model_dump(mode="json")
    found = []
    for part in a:
        free = MAY_CHANGE.get(part, set())
        if free is None or a[part] == b[part]:
            continue
        if not isinstance(a[part], dict) or not isinstance(b[part], dict):
            found.append(part)
            continue
        names = sorted({*a[part], *b[part]} - free)
        found += [f"{part}.{n}" for n in names if a[part].get(n) != b[part].get(n)]
    return found


def _usable(pool: DataPool) -> dict[str, bool]:
    """Groups that are whole, and whether any member can be trained on."""
    members: dict[str, list[bool]] = {}
    for episode in pool.trajectories():
        fit = episode.fault(pool.vocabulary, pool.max_tokens) is None
        members.setdefault(str(episode.group), []).append(fit)
    return {name: any(fit) for name, fit in members.items() if len(fit) == pool.group_size}


def _export(model: HookedModel, place: Path) -> None:
    """Whole weights; adapters are merged into them and stand beside them too."""
    half = place.with_name(f".half-{place.name}")
    whole = model.model
    if hasattr(whole, "merge_and_unload"):
        whole.save_pretrained(place.with_name("adapter"))
        whole = copy.deepcopy(whole).merge_and_unload()
    whole.save_pretrained(half)
    if place.exists():
        place.rename(place.with_name(f"{place.name}-{time.time_ns()}"))
    half.rename(place)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep a second trainer out of the folder; the lock goes with the process."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process trains in {path.parent}") from None
        yield
    finally:
        os.close(descriptor)
