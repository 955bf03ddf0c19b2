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
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from m2gym.backends.local import checkpoint
from m2gym.backends.local.agreement import agreement
from m2gym.backends.local.behaviour import behaviour, probes, success
from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.generation import Generation
from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.learner import Learner, graded
from m2gym.backends.local.metrics import EqualTasks, MetricsFile, Row, anomalies
from m2gym.backends.local.optimiser import MasterAdamW, rate
from m2gym.backends.local.rollouts import Rollouts
from m2gym.backends.local.schedule import Plan
from m2gym.backends.local.sinks import KINDS, Sink, check_sinks
from m2gym.backends.local.step_back import StepBack
from m2gym.backends.stages import Stages
from m2gym.backends.train_config import TrainConfig, local_config
from m2gym.core.errors import InfraError, InputError
from m2gym.forge.pack import Budget
from m2gym.forge.pool import Claim, DataPool
from m2gym.forge.records import PoolTrajectory
from m2gym.forge.window import Batch

MAY_CHANGE = {
    "out": None,
    "log": None,
    "train": {
        "steps", "save_every", "keep", "eval_every", "eval_tasks", "stop_at", "concurrency",
        "episode_seconds",
    },
}  # fmt: skip
"""Fields that a resumed run may have other values of. ``steps`` moves the end of a decay."""

PHASES = ("evaluate", "generate", "probe", "update")
"""Phases of a step whose seconds are logged; ``generate`` holds the environment, ``engine`` within
it the model, ``update`` the ``gradients`` and the ``optimiser``; ``other`` is all the rest."""

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
        check_sinks(config.log)
        local = local_config(config.backend)
        self.config, self.settings, self.out = config, config.train, config.out
        self.model, self.told, self.resume = model, told, resume
        self.stages = Stages(config)
        self.optimiser = MasterAdamW(model.model, config.train)
        self.guard = StepBack(self.optimiser)
        self.learner = Learner(
            model,
            self.stages.algorithm,
            self.optimiser,
            temperature=self.stages.settings.temperature,
            micro_tokens=local.micro_tokens,
        )
        self.engine = engine or LocalEngine(
            model, rows=local.rows, kv_tokens=local.kv_tokens, context=local.context
        )
        self.plan = Plan(config.algorithm.schedule, config.train.groups)
        self.generation = Generation(rollouts, self.engine, self.plan, self.stages)
        self.metrics = MetricsFile(self.out / "metrics.jsonl")
        self.equal = EqualTasks()
        self.step = 0
        self.rows: list[Row] = []
        self.held_out: float | None = None
        self._claims: list[int] = []

    async def run(self) -> TrainResult:
        """Train to the last step.

        Raises:
            InputError: the folder holds another run, or another configuration's.
            MergeMismatchError: merged and unmerged training of this model differ.
            InfraError: no episode could be graded, a damaged checkpoint, no memory.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the run's folder {self.out} cannot be made: {error.strerror}; name another"
            ) from error
        with _held(self.out / "lock"):
            self._begin()
            self.learner.check_merging()
            size, most = self.settings.group_size, self.engine.context
            path = self.out / "pool.db"
            with DataPool(
                path, group_size=size, vocabulary=self.model.vocabulary, max_tokens=most
            ) as self.pool:
                self.generation.in_pool = _usable(self.pool)
                self.lease = self.pool.attach("local", lease=LEASE)
                self._claims = self._trained()
                await self.engine.update_weights(self.step)
                sinks = [KINDS[name](self.config, self.out, self.step) for name in self.config.log]
                self.sinks: list[Sink] = [*sinks]
                try:
                    while self.step < self.settings.steps and not self._reached():
                        await self._step()
                finally:
                    for sink in self.sinks:
                        sink.close()
                    if self.step == len(self.rows):
                        self._save()
        _export(self.model, self.out / "model")
        return TrainResult(self.out, tuple(self.rows), self.held_out)

    async def _step(self) -> None:
        begun = time.perf_counter()
        row: Row = {"step": self.step + 1, "stage": self.stages.index + 1}
        if self.settings.eval_every and self.step == 0:
            row["held_out_before"] = await self.generation.evaluate(0)
        measured, busy = time.perf_counter(), self.engine.seconds
        batch = await self.generation.next_batch(self.pool)
        generated = time.perf_counter()
        row["seconds_evaluate"] = measured - begun
        row["seconds_engine"] = self.engine.seconds - busy
        row["seconds_generate"] = generated - measured
        # From here to the log a step is done whole, also when the run is interrupted.
        rest = asyncio.ensure_future(self._learn(batch, row, begun))
        try:
            await asyncio.shield(rest)
        except asyncio.CancelledError:
            await rest
            raise

    async def _learn(self, batch: Batch[int], row: Row, begun: float) -> None:
        claim = self._claim()
        self._claims.append(claim.id)
        lr = rate(self.stages.settings, self.step, self.stages.begun)
        data = graded(claim.groups, self.stages.algorithm)
        probed = time.perf_counter()
        wanted = [] if self.step % self.settings.probe_every else probes(claim.groups)
        row |= {"lr": lr, **data.stats, **behaviour(claim.groups)}
        if wanted:
            row["nll0"] = self.learner.nll(wanted)
            if self.stages.guarded:
                self.guard.see(row["nll0"])
        learning = time.perf_counter()
        row |= self.learner.update(data, self.step, lr)
        row["seconds_probe"] = learning - probed
        row["seconds_update"] = time.perf_counter() - learning
        row |= self._counted(claim)
        self.plan.release(batch)
        self.step += 1
        self._next_stage(claim, row)
        await self.engine.update_weights(self.step)
        if "engine_difference_mean" not in row:
            comparing = time.perf_counter()
            row |= await agreement(self.engine, self.learner, claim.groups, self.step)
            row["seconds_probe"] += time.perf_counter() - comparing
        if self.settings.eval_every and self.step % self.settings.eval_every == 0:
            evaluating = time.perf_counter()
            row["held_out"] = self.held_out = await self.generation.evaluate(self.step)
            row["seconds_evaluate"] += time.perf_counter() - evaluating
        row["anomalies"] = anomalies(row, self.rows)
        row["seconds"] = time.perf_counter() - begun
        spent = sum(row[f"seconds_{name}"] for name in PHASES)
        row["seconds_other"] = row["seconds"] - spent
        row["tokens_per_second"] = row["tokens"] / row["seconds"]
        self.metrics.append(row)
        self.rows.append(row)
        for sink in self.sinks:
            sink.write(row)
        self.told(row)
        if self.step % self.settings.save_every == 0:
            self._save()

    def _counted(self, claim: Claim) -> Row:
        """What was masked and why, and tasks whose attempts never differ."""
        members = len(claim.groups) * self.settings.group_size
        found: Row = {
            "dropped_groups": float(len(self.plan.dropped)),
            "masked_episodes": float(members - len(claim.trajectories)),
            "equal": {},
        }
        if found["masked_episodes"]:
            found["masked_why"] = ", ".join(f"{n} × {w}" for w, n in self.pool.faults().items())
            if self.generation.error:
                found["masked_why"] += f" in all; the last error: {self.generation.error}"
        for group in claim.groups:
            told = self.equal.add(group[0].task, [float(e.reward or 0.0) for e in group])
            if told is not None:
                found["equal"][group[0].task] = told
        return found

    def _next_stage(self, claim: Claim, row: Row) -> None:
        margin = self.stages.parts[self.stages.index].step_back
        moved = self.stages.step(success(claim.groups))
        if moved is None:
            return
        row["stage_ended"] = moved.reason
        if margin is not None:
            row["stepped_back"] = float(self.guard.back(margin))
        if not self.stages.guarded:
            self.guard.forget()
        if moved.reset_optimizer:
            self.optimiser.reset()
            self.stages.begun = self.step
        self.learner.configure(self.stages.algorithm, self.stages.settings.temperature)
        if moved.reset_reference and self.learner.reference is not None:
            self.learner.reference.reset()

    def episodes(self) -> list[PoolTrajectory]:
        """All that were generated, in order."""
        size, path = self.settings.group_size, self.out / "pool.db"
        with DataPool(path, group_size=size) as pool:
            return list(pool.trajectories())

    async def evaluate(self) -> float:
        """Mean reward of held-out tasks; see `Generation.evaluate`."""
        return await self.generation.evaluate(self.step)

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
            self.step, self.held_out = state["step"], state["held_out"]
            self.optimiser.load(state["optimiser"])
            self.stages.load(state["stages"])
            self.equal.times = dict(state["equal"])
            if "guard" in state:
                self.guard.load(state["guard"])
            self.learner.configure(self.stages.algorithm, self.stages.settings.temperature)
            self.learner.budget = Budget(state["micro_tokens"])
            if self.learner.reference is not None and "reference" in state:
                self.learner.reference.load(state["reference"])
            self.plan.replay(self.step, state["dropped"])
            self.plan.dropped = list(state["dropped"])
        self.rows = self.metrics.keep(self.step)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "held_out": self.held_out,
            "dropped": list(self.plan.dropped),
            "optimiser": self.optimiser.state(),
            "stages": self.stages.state(),
            "equal": dict(self.equal.times),
            "guard": self.guard.state(),
            "micro_tokens": self.learner.budget.tokens,
        }
        if self.learner.reference is not None:
            state["reference"] = self.learner.reference.state()
        checkpoint.save(self.out / "checkpoints", self.step, state, keep=self.settings.keep)
        since = self.step - checkpoint.steps(self.out / "checkpoints")[0]
        done = len(self._claims) - since
        for claim in self._claims[:done]:
            self.lease.commit(claim)
        self._claims = self._claims[done:]

    def _claim(self) -> Claim:
        """The groups of the next update."""
        claim = self.lease.claim(self.settings.groups)
        if claim is None or len(claim.groups) != self.settings.groups:
            raise InfraError("the pool and the schedule do not agree; begin a new run")
        return claim

    def _trained(self) -> list[int]:
        """Claims of the updates done that the pool may still have to give again: those since the
        oldest checkpoint. It gives groups in one order, so they are the next ones."""
        consumed = self.pool.counts()["consumed"] // self.settings.groups
        if consumed > self.step:
            raise InfraError(
                f"the pool's groups of the first {consumed} updates are let go, and the newest "
                f"checkpoint in {self.out} is of update {self.step}; begin a new run"
            )
        return [self._claim().id for _ in range(consumed, self.step)]


def changes(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Fields that differ and may not, with what they were and are."""
    a, b = old.model_dump(mode="json"), new.model_dump(mode="json")
    found = []
    for part in a:
        free = MAY_CHANGE.get(part, set())
        if free is None or a[part] == b[part]:
            continue
        if not isinstance(a[part], dict) or not isinstance(b[part], dict):
            found.append(f"{part} (was {a[part]!r}, now {b[part]!r})")
            continue
        names = sorted({*a[part], *b[part]} - free)
        was, now = a[part], b[part]
        found += [
            f"{part}.{n} (was {was.get(n)!r}, now {now.get(n)!r})"
            for n in names
            if was.get(n) != now.get(n)
        ]
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
