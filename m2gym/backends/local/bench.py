"""Tokens a second of the engine beside transformers' own ways, in one run.

A group of one shared prompt, as in reinforcement learning, and as many prompts that share nothing:
the same weights (random, of a named shape), dtype, prompts and number of sampled tokens for all
three. Every figure is the fastest of ``repeat`` measurements after one of the same size that warms
up; the engine serves all of them, with new weights each time, as in training. On a machine with
other work compare the processor time, which waiting does not change.

``python -m m2gym.backends.local.bench SHAPE [EXPERTS]`` measures one shape and prints a row a line.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from m2gym.backends.local import bench_step
from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.hooked import ATTENTION, HookedModel, set_experts
from m2gym.core.protocols import Sampling

COMMON = {
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "bos_token_id": 1,
    "pad_token_id": 2,
}
BLOCK = 256
"""Tokens of a block of continuous batching, its default. It gets room for every sequence: left to
itself it takes most of the machine's memory."""

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "llama-3m": {
        "vocab_size": 4096,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
    },
    "llama-11m": {
        "vocab_size": 8192,
        "hidden_size": 320,
        "intermediate_size": 864,
        "num_hidden_layers": 8,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
    },
    "m2-1b": {
        "model_type": "minimax_m2",
        "vocab_size": 32768,
        "hidden_size": 1024,
        "intermediate_size": 512,
        "num_hidden_layers": 10,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_local_experts": 64,
        "num_experts_per_tok": 8,
    },
}
"""Shapes by name, Llamas but for the ones that name their type; the weights are random."""


def shaped(shape: str, dtype: torch.dtype, device: str = "cpu") -> Any:
    """A model of a named shape."""
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    own = {"model_type": "llama", **COMMON, **SHAPES[shape]}
    config = transformers.AutoConfig.for_model(own.pop("model_type"), **own)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


ON_CPU = (("llama-11m", ""),)
ON_GPU = (("smollm2-135m", ""), ("m2-1b", "grouped_mm"), ("m2-1b", "m2_triton"))
"""Shapes, and who computes the experts."""


def run(
    groups: tuple[int, ...] = (8, 16),
    prompt: int = 1024,
    new: int = 64,
    repeat: int = 2,
    shape: str | None = None,
) -> list[dict[str, Any]]:
    """One row a shape, group size and way of generating, float32 on a CPU, bfloat16 on a GPU; then
    whole training steps and what they learn (`m2gym.backends.local.bench_step`)."""
    shapes = (ON_GPU if torch.cuda.is_available() else ON_CPU) if shape is None else ((shape, ""),)
    rows = [row for one in shapes for row in ways(*one, groups, prompt, new, repeat)]
    return [*rows, *bench_step.run(), *bench_step.learn()]


def ways(
    shape: str,
    experts: str = "",
    groups: tuple[int, ...] = (8, 16),
    prompt: int = 1024,
    new: int = 64,
    repeat: int = 2,
) -> Iterator[dict[str, Any]]:
    """A row a group size, kind of prompts and way of generating; one that cannot run has what it
    said as ``failed``."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = shaped(shape, torch.float32 if device == "cpu" else torch.bfloat16, device)
    if experts:
        set_experts(model, experts)
    random = np.random.default_rng(0)
    works = {name: way(model) for name, way in WAYS.items()}
    named = f"{shape}, experts {experts}" if experts else shape
    for group in groups:
        one = random.integers(3, 4096, prompt).tolist()
        own = random.integers(3, 4096, (group, prompt)).tolist()
        for what, prompts in (("shared", [one] * group), ("each its own", own)):
            for name, work in works.items():
                row = {"what": f"{name}, {named}, {group} × ({prompt} {what} + {new})"}
                yield {**row, **_measured(partial(work, prompts, new), repeat), "device": device}


def _measured(work: Callable[[], int], repeat: int) -> dict[str, Any]:
    try:
        found = [_timed(work) for _ in range(repeat + 1)][1:]
    except Exception as error:  # of a peer: the others' figures stand without it
        return {"failed": f"{type(error).__name__}: {error}"}
    tokens, seconds, cpu = min(found, key=lambda timing: timing[1])
    return {"seconds": seconds, "tokens_per_second": tokens / seconds, "cpu_seconds": cpu}


def _timed(work: Callable[[], int]) -> tuple[int, float, float]:
    begun, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return tokens, time.perf_counter() - begun, time.process_time() - cpu


Work = Callable[[list[list[int]], int], int]
"""Answers of so many tokens to prompts of one length; how many tokens there were."""


def _generate(model: Any) -> Work:
    def work(prompts: list[list[int]], new: int) -> int:
        model.set_attn_implementation("sdpa")
        ids = torch.tensor(prompts, device=model.device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=new,
        )
        return int(out.shape[0] * (out.shape[1] - ids.shape[1]))

    return work


def continuous_batching(model: Any) -> Work:
    """Transformers' own, with room for every sequence."""
    transformers: Any = importlib.import_module("transformers")

    def work(prompts: list[list[int]], new: int) -> int:
        model.set_attn_implementation("sdpa")
        config = transformers.GenerationConfig(
            max_new_tokens=new, do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1
        )
        blocks = len(prompts) * (2 + (len(prompts[0]) + new) // BLOCK)
        memory = transformers.ContinuousBatchingConfig(
            block_size=BLOCK, num_blocks=blocks, max_batch_tokens=2048
        )
        found = model.generate_batch(
            prompts,
            generation_config=config,
            continuous_batching_config=memory,
            progress_bar=False,
        )
        return sum(len(output.generated_tokens) for output in found.values())

    return work


def _engine(model: Any) -> Work:
    engine = LocalEngine(HookedModel(model))

    async def all_of_them(prompts: list[list[int]], new: int) -> int:
        await engine.update_weights(engine.version + 1)
        outputs = await asyncio.gather(
            *(
                engine.generate(ids, Sampling(max_tokens=new, seed=n), session_id=str(n))
                for n, ids in enumerate(prompts)
            )
        )
        return sum(len(output.ids) for output in outputs)

    def work(prompts: list[list[int]], new: int) -> int:
        model.set_attn_implementation(ATTENTION)
        return asyncio.run(all_of_them(prompts, new))

    return work


WAYS: dict[str, Callable[[Any], Work]] = {
    "transformers generate": _generate,
    "transformers continuous batching": continuous_batching,
    "m2gym engine": _engine,
}


if __name__ == "__main__":
    for _row in ways(sys.argv[1], "".join(sys.argv[2:])):
        print(json.dumps(_row, ensure_ascii=False), flush=True)
