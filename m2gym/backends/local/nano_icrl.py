"""ICRL with m2-nano on invented tools: arms of the experiment as configurations, one run of each.

ICRL [arXiv 2603.08068] gives the curriculum (3, 2, 0 examples; optimiser anew at each stage). Ours
is that the few-shot stages take the reward itself as the advantage (``centred``, ``fraction`` 0) at
a higher temperature and rate. With centred advantages the few-shot reward soon is 1, groups become
equal and nothing moves the calls into the weights.
"""

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
from m2gym.backends.local.learner import Learner
from m2gym.backends.local.m2_layers import use_layers
from m2gym.backends.local.optimiser import MasterAdamW
from m2gym.backends.local.trainer import LocalTrainer
from m2gym.backends.local.worlds import WorldRollouts
from m2gym.backends.train_config import TrainConfig
from m2gym.core.errors import UnknownIdError
from m2gym.core.protocols import Sampling
from m2gym.core.task import Taskset
from m2gym.forge.tree import Sample
from m2gym.models.chat_format import TurnFormat
from m2gym.models.minimax_m2 import MiniMaxM2
from m2gym.models.nano import NAME, folder
from m2gym.models.tokenizer import HfTokenizer
from m2gym.tasksets.tool_worlds.taskset import tool_worlds

UNCENTRED = {"advantage": "centred", "fraction": 0.0, "temperature": 1.7, "lr": 8e-4}
PLAIN = {"advantage": "normalised", "temperature": 1.0, "lr": 3e-4}
MIXED = (3, 2, 1)

ARMS: dict[str, list[tuple[Any, int, dict[str, Any]]]] = {
    "3-2-0": [(3, 20, UNCENTRED), (2, 15, UNCENTRED), (0, 65, PLAIN)],
    "3-2-1-0": [(3, 15, UNCENTRED), (2, 10, UNCENTRED), (1, 10, UNCENTRED), (0, 65, PLAIN)],
    "mixed-0": [(MIXED, 35, UNCENTRED), (0, 65, PLAIN)],
    "3-2-0-centred": [(3, 20, PLAIN), (2, 15, PLAIN), (0, 65, PLAIN)],
    "3-2-1-0-centred": [(3, 15, PLAIN), (2, 10, PLAIN), (1, 10, PLAIN), (0, 65, PLAIN)],
    "mixed-0-centred": [(MIXED, 35, PLAIN), (0, 65, PLAIN)],
    "zero": [(0, 100, PLAIN)],
    "none": [],
}
"""Stages of each arm: examples (several: mixed between tasks), updates, settings. All that learn
have the same number of updates and episodes, and end when questions without examples succeed."""

GROUPS, SIZE, TOKENS, ASKED = 8, 8, 48, 64
"""Groups an update, attempts in each, longest answer, held-out questions of a measurement."""


def config_of(arm: str, world: dict[str, Any], seed: int, out: Path) -> TrainConfig:
    """The configuration of an arm; `UnknownIdError` names the known ones."""
    if arm not in ARMS:
        raise UnknownIdError("arm", arm, ARMS)
    stages = ARMS[arm]
    return TrainConfig(
        env={"id": "tool-worlds", **world},
        agent={"id": "shots"},
        model=NAME,
        algorithm={"id": "grpo"},
        stages=[
            {"steps": steps, "agent": {"shots": shots}, **settings}
            for shots, steps, settings in stages
        ],
        train={
            "steps": max(1, sum(steps for _, steps, _ in stages)),
            "groups": GROUPS,
            "group_size": SIZE,
            "max_tokens": TOKENS,
            "warmup": 5,
            "seed": seed,
            "save_every": 10_000,
            "keep": 1,
            "eval_every": 10,
            "eval_tasks": 32,
            "stop_at": 0.975,
        },
        out=out,
    )


def start() -> tuple[HookedModel, TurnFormat]:
    """The shipped weights, made ready for a CPU, and their chat format."""
    hooked = HookedModel(load_causal(str(folder()), dtype=torch.float32))
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


async def success(
    engine: LocalEngine, rollouts: WorldRollouts, shots: int, asked: int = ASKED, seed: int = 1
) -> float:
    """Share of held-out questions whose call is right, sampled once each at temperature 1."""

    async def one(n: int, task: str) -> float:
        sampling = Sampling(temperature=1.0, max_tokens=TOKENS, seed=seed + n)
        out = await engine.generate(rollouts.prompt(task, shots), sampling, session_id=f"m{n}")
        return rollouts.judged(task, out.ids)[1]

    tasks = list(rollouts.held_out)[:asked]
    return float(np.mean(await asyncio.gather(*(one(n, t) for n, t in enumerate(tasks)))))


def nats(hooked: HookedModel, rollouts: WorldRollouts, shots: int = 0, asked: int = 16) -> float:
    """Mean surprise of the right call under a prompt with ``shots`` examples: how guessable the
    format is (``nll0`` for none)."""
    config = config_of("none", {}, 0, Path("unused"))
    learner = Learner(hooked, config.algorithm, MasterAdamW(hooked.model, config.train))
    format = rollouts.format
    samples = []
    for task in list(rollouts.held_out)[:asked]:
        episode = rollouts.questions.episode(rollouts.world, int(task.rpartition("/")[2]))
        opening = f"use {episode.tool.name}\n</think>\n\n"
        prompt = [*rollouts.prompt(task, shots), *format.spell(opening)]
        answer = [*format.tokenizer.encode(episode.call), format.stop_ids[0]]
        samples.append(Sample.of(np.array(prompt), np.array(answer), np.zeros(len(answer))))
    return learner.nll(samples)


def run(
    arm: str,
    world: dict[str, Any],
    seed: int,
    *,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """One run, measured before and after; deterministic but for the clock.

    ``zero`` and ``three``: success with none and three examples, before and after. ``curve``:
    held-out reward without examples every ten updates. ``nll0``: at each few-shot update.
    ``seconds`` and ``cpu_seconds``: of training alone.
    """
    hooked, format = start()
    engine = engine_of(hooked, format)
    taskset = tool_worlds(**world)
    shots = [shots for shots, _, _ in ARMS[arm]] or [0]
    rollouts = rollouts_of(taskset, format, shots)
    found: dict[str, Any] = {"arm": arm, **world, "seed": seed}
    found["nats"] = nats(hooked, rollouts)
    rows: list[dict[str, Any]] = []

    async def all_of_it() -> None:
        found["before"] = {n: await success(engine, rollouts, n) for n in (0, 3)}
        begun, cpu = time.perf_counter(), time.process_time()
        if ARMS[arm]:
            with tempfile.TemporaryDirectory() as place:
                config = config_of(arm, world, seed, Path(place) / "run")

                def heard(row: dict[str, Any]) -> None:
                    rows.append(row)
                    told(row)

                await LocalTrainer(config, hooked, rollouts, engine=engine, told=heard).run()
        found["seconds"] = time.perf_counter() - begun
        found["cpu_seconds"] = time.process_time() - cpu
        found["after"] = {n: await success(engine, rollouts, n) for n in (0, 3)}

    try:
        asyncio.run(all_of_it())
    finally:
        engine.close()
    found["curve"] = [[r["step"], r["held_out"]] for r in rows if "held_out" in r]
    found["nll0"] = [round(r["nll0"], 3) for r in rows if "nll0" in r]
    found["reward"] = [round(r["reward"], 3) for r in rows]
    found["phases"] = {
        name: round(sum(r.get(name, 0.0) for r in rows), 2)
        for name in (
            "seconds_generate",
            "seconds_update",
            "seconds_probe",
            "seconds_evaluate",
            "seconds_other",
        )
    }
    return found
