"""One run of m2-nano's ICRL experiment, measured before and after; arms in `nano_arms`."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.hooked import HookedModel, load_causal
from m2gym.backends.local.imitation import imitate, labelled, written
from m2gym.backends.local.learner import Learner
from m2gym.backends.local.m2_layers import use_layers
from m2gym.backends.local.nano_arms import GROUPS, SIZE, TOKENS, Arm, arm_of, config_of
from m2gym.backends.local.optimiser import MasterAdamW
from m2gym.backends.local.trainer import LocalTrainer
from m2gym.backends.local.worlds import WorldRollouts
from m2gym.core.protocols import Sampling
from m2gym.core.task import Taskset
from m2gym.models.chat_format import TurnFormat
from m2gym.models.minimax_m2 import MiniMaxM2
from m2gym.models.nano import folder
from m2gym.models.tokenizer import HfTokenizer
from m2gym.tasksets.tool_worlds.taskset import tool_worlds

ASKED = 64
"""Held-out questions of a measurement."""

IMITATED, RATE = 20, 5e-4
"""Updates of a cold start, and the rate of imitation; the project's choice."""


def start(model: Path | None = None) -> tuple[HookedModel, TurnFormat]:
    """The shipped weights (or those of another folder), ready for a CPU, and their chat format."""
    hooked = HookedModel(load_causal(str(model or folder()), dtype=torch.float32))
    use_layers(hooked)
    return hooked, MiniMaxM2(HfTokenizer.load(folder()))


def engine_of(hooked: HookedModel, format: TurnFormat) -> LocalEngine:
    """The engine for such a run."""
    return LocalEngine(
        hooked, stop_ids=format.stop_ids, decode=format.tokenizer.decode, rows=GROUPS * SIZE
    )


def rollouts_of(taskset: Taskset, format: TurnFormat, shots: Sequence[Any]) -> WorldRollouts:
    """In-process episodes of a world."""
    return WorldRollouts(taskset, format, taskset.ids("train"), taskset.ids("test"), shots)


async def answers(
    engine: LocalEngine, rollouts: WorldRollouts, shots: int, asked: int = ASKED, seed: int = 1
) -> list[float]:
    """Whether the call of each held-out question is right, sampled once at temperature 1."""

    async def one(n: int, task: str) -> float:
        sampling = Sampling(temperature=1.0, max_tokens=TOKENS, seed=seed + n)
        out = await engine.generate(rollouts.prompt(task, shots), sampling, session_id=f"m{n}")
        return rollouts.judged(task, out.ids)[1]

    tasks = list(rollouts.held_out)[:asked]
    return list(await asyncio.gather(*(one(n, t) for n, t in enumerate(tasks))))


async def success(
    engine: LocalEngine, rollouts: WorldRollouts, shots: int, asked: int = ASKED, seed: int = 1
) -> float:
    """Share of held-out questions whose call is right; see `answers`."""
    return float(np.mean(await answers(engine, rollouts, shots, asked, seed)))


async def by_tool(engine: LocalEngine, rollouts: WorldRollouts) -> list[float]:
    """`success` without examples for each of the world's tools, which take turns."""
    right = await answers(engine, rollouts, 0)
    tools = len(rollouts.world.tools)
    return [float(np.mean(right[tool::tools])) for tool in range(tools)]


def learner_of(hooked: HookedModel) -> Learner:
    """A learner at temperature 1."""
    config = config_of("none", {}, 0, Path("unused"))
    return Learner(hooked, config.algorithm, MasterAdamW(hooked.model, config.train))


def nats(hooked: HookedModel, rollouts: WorldRollouts, shots: int = 0, asked: int = 16) -> float:
    """Mean surprise of the right call under a prompt with ``shots`` examples: how guessable the
    format is (``nll0`` for none)."""
    tasks = list(rollouts.held_out)[:asked]
    return learner_of(hooked).nll(labelled(rollouts, tasks, shots=shots, thought=False))


async def begin(
    arm: Arm, hooked: HookedModel, engine: LocalEngine, rollouts: WorldRollouts, seed: int
) -> list[float]:
    """What an arm does before RL; the surprise at each of its updates."""
    learner, order = learner_of(hooked), np.random.default_rng(seed)
    tasks = [rollouts.tasks[n] for n in order.permutation(len(rollouts.tasks))]
    found = []
    updates = arm.distilled or (IMITATED if arm.labelled else 0)
    for update in range(updates):
        if arm.labelled:
            samples = labelled(rollouts, tasks[: arm.labelled])
        else:
            at = update * GROUPS * SIZE
            asked = [tasks[n % len(tasks)] for n in range(at, at + GROUPS * SIZE)]
            samples = await written(engine, rollouts, asked, seed + at, TOKENS)
        found.append(imitate(learner, samples, RATE))
        await engine.update_weights(0)
    return found


def run(
    name: str,
    world: dict[str, Any],
    seed: int,
    *,
    model: Path | None = None,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """One run of an arm, measured before and after; deterministic but for the clock. ``model``:
    other weights than those that ship, for instance the dense ones.

    ``before``, ``after`` (and ``begun``: between imitation and RL): success by examples.
    ``after_tools``: without examples, by tool. ``curve``: held-out reward without examples every
    ten updates. ``nll0``: at each few-shot update. ``updates``: of RL, done. ``seconds`` and
    ``cpu_seconds``: of training alone.
    """
    arm = arm_of(name)
    hooked, format = start(model)
    engine = engine_of(hooked, format)
    taskset = tool_worlds(**world)
    shots = [shots for shots, _, _ in arm.stages] or [0]
    rollouts = rollouts_of(taskset, format, shots)
    found: dict[str, Any] = {"arm": name, **world, "seed": seed, "nats": nats(hooked, rollouts)}
    rows: list[dict[str, Any]] = []

    def heard(row: dict[str, Any]) -> None:
        rows.append(row)
        told(row)

    async def all_of_it() -> None:
        found["before"] = {n: await success(engine, rollouts, n) for n in (0, 3)}
        started, cpu = time.perf_counter(), time.process_time()
        found["imitated"] = await begin(arm, hooked, engine, rollouts, seed)
        if found["imitated"]:
            found["begun"] = {n: await success(engine, rollouts, n) for n in (0, 3)}
        if arm.stages:
            with tempfile.TemporaryDirectory() as place:
                config = config_of(name, world, seed, Path(place) / "run")
                await LocalTrainer(config, hooked, rollouts, engine=engine, told=heard).run()
        found["seconds"] = time.perf_counter() - started
        found["cpu_seconds"] = time.process_time() - cpu
        found["after"] = {n: await success(engine, rollouts, n) for n in (0, 3)}
        found["after_tools"] = await by_tool(engine, rollouts)

    try:
        asyncio.run(all_of_it())
    finally:
        engine.close()
    found["updates"] = len(rows)
    found["curve"] = [[r["step"], round(r["held_out"], 4)] for r in rows if "held_out" in r]
    found["nll0"] = [round(r["nll0"], 3) for r in rows if "nll0" in r]
    found["reward"] = [round(r["reward"], 3) for r in rows]
    found["imitated"] = [round(surprise, 3) for surprise in found["imitated"]]
    return found
