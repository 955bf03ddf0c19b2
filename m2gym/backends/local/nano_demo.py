"""What the demo trains: m2-nano learns an invented tool until it needs no example of it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.nano_arms import DEFAULT, TOKENS, config_of
from m2gym.backends.local.nano_icrl import engine_of, rollouts_of, start, success
from m2gym.backends.local.trainer import LocalTrainer
from m2gym.backends.local.worlds import WorldRollouts
from m2gym.backends.train_config import TrainConfig
from m2gym.core.protocols import Sampling
from m2gym.tasksets.tool_worlds.taskset import WORLD, tool_worlds

SHOWN = 32
"""Held-out questions of a measurement."""


@dataclass(frozen=True)
class Learnt:
    """Success on held-out questions without and with three examples, before and after; a question,
    its right call, and what the model wrote without examples; a row an update; seconds of training.
    """

    before: dict[int, float]
    after: dict[int, float]
    question: str
    call: str
    said: tuple[str, str]
    rows: tuple[dict[str, Any], ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "before": self.before,
            "after": self.after,
            "question": self.question,
            "call": self.call,
            "said": list(self.said),
            "reward": [round(row["reward"], 4) for row in self.rows],
            "examples": [row["examples"] for row in self.rows],
            "seconds": round(self.seconds, 2),
        }


def learn(
    seed: int = 0,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
    *,
    steps: int | None = None,
) -> Learnt:
    """Train the default arm on the default world.

    Args:
        seed: of the run.
        told: called with each update's row, to which ``examples`` in the prompt are added.
        steps: updates at most; the arm's own when left out.
    """
    world: dict[str, Any] = {"world": WORLD, "questions": 512}
    hooked, format = start()
    engine = engine_of(hooked, format)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        config = config_of(DEFAULT, world, seed, Path(place) / "run")
        if steps is not None:
            config = _cut(config, steps)
        shots = [stage.agent["shots"] for stage in config.stages]
        rollouts = rollouts_of(tool_worlds(**world), format, shots)

        def heard(row: dict[str, Any]) -> None:
            rows.append({**row, "examples": shots[int(row["stage"]) - 1]})
            told(rows[-1])

        async def all_of_it() -> tuple[Any, ...]:
            before = {n: await success(engine, rollouts, n, SHOWN) for n in (0, 3)}
            first = await _said(engine, rollouts)
            begun = time.perf_counter()
            await LocalTrainer(config, hooked, rollouts, engine=engine, told=heard).run()
            seconds = time.perf_counter() - begun
            after = {n: await success(engine, rollouts, n, SHOWN) for n in (0, 3)}
            return before, after, (first, await _said(engine, rollouts)), seconds

        try:
            before, after, said, seconds = asyncio.run(all_of_it())
        finally:
            engine.close()
    asked = rollouts.questions.episode(rollouts.world, _number(rollouts))
    return Learnt(before, after, asked.question, asked.call, said, tuple(rows), seconds)


def _cut(config: TrainConfig, steps: int) -> TrainConfig:
    """The first ``steps`` updates of a run."""
    stages = []
    left = steps
    for stage in config.stages:
        stages.append(stage.model_dump())
        if stage.steps is None or stage.steps >= left:
            stages[-1]["steps"] = None
            break
        left -= stage.steps
    return config.replace(stages=stages, train={"steps": steps})


def _number(rollouts: WorldRollouts) -> int:
    return int(rollouts.held_out[0].rpartition("/")[2])


async def _said(engine: LocalEngine, rollouts: WorldRollouts) -> str:
    """The likeliest answer to the first held-out question without examples."""
    prompt = rollouts.prompt(rollouts.held_out[0], 0)
    sampling = Sampling(temperature=0.0, max_tokens=TOKENS, seed=0)
    return rollouts.text((await engine.generate(prompt, sampling, session_id="said")).ids)
