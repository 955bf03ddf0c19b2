"""Tokens a second of m2-nano: this engine beside transformers' own ways, in one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from m2gym.backends.local.bench import continuous_batching
from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.m2_layers import use_layers
from m2gym.core.protocols import Sampling
from m2gym.models import nano

PROMPT, NEW = 150, 32


def run(batches: tuple[int, ...] = (16, 64), repeat: int = 3) -> list[dict[str, Any]]:
    """A row a batch and way: prompts of `PROMPT` random tokens of their own, `NEW` sampled each;
    the fastest of ``repeat`` after a warm-up."""
    rows = []
    for batch in batches:
        random = np.random.default_rng(batch)
        prompts = random.integers(7, 1024, (batch, PROMPT)).tolist()
        for name, way in WAYS.items():
            model, _ = nano.load()
            work = way(model, prompts)
            work(2)
            found = []
            for _ in range(repeat):
                begun, cpu = time.perf_counter(), time.process_time()
                work(NEW)
                found.append((time.perf_counter() - begun, time.process_time() - cpu))
            seconds, cpu_seconds = min(found)
            rows.append(
                {
                    "what": f"{name}, batch {batch}",
                    "tokens_per_second": batch * NEW / seconds,
                    "seconds": seconds,
                    "cpu_seconds": cpu_seconds,
                    "threads": torch.get_num_threads(),
                }
            )
    return rows


def _engine(model: Any, prompts: list[list[int]]) -> Callable[[int], None]:
    hooked = HookedModel(model)
    use_layers(hooked)
    engine = LocalEngine(hooked)

    async def all_of_them(new: int) -> None:
        await engine.update_weights(engine.version + 1)
        sampling = [Sampling(max_tokens=new, seed=n) for n in range(len(prompts))]
        await asyncio.gather(
            *(
                engine.generate(ids, how, session_id=str(n))
                for n, (ids, how) in enumerate(zip(prompts, sampling, strict=True))
            )
        )

    def work(new: int) -> None:
        asyncio.run(all_of_them(new))

    return work


def _generate(experts: str) -> Callable[[Any, list[list[int]]], Callable[[int], None]]:
    def way(model: Any, prompts: list[list[int]]) -> Callable[[int], None]:
        model.set_experts_implementation(experts)
        ids = torch.tensor(prompts)

        def work(new: int) -> None:
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=new,
                min_new_tokens=new,
            )

        return work

    return way


def _batching(model: Any, prompts: list[list[int]]) -> Callable[[int], int]:
    model.set_experts_implementation("grouped_mm")
    return partial(continuous_batching(model), prompts)


WAYS: dict[str, Callable[[Any, list[list[int]]], Callable[[int], object]]] = {
    "m2gym engine": _engine,
    "transformers generate (grouped_mm)": _generate("grouped_mm"),
    "transformers generate (eager)": _generate("eager"),
    "transformers continuous batching (grouped_mm)": _batching,
}
