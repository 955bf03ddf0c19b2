"""A whole training step beside TRL's ``GRPOTrainer``: tokens a second and peak memory.

The same model (random weights of a named shape), prompts, lengths, group and learning rate; answers
always have their full length. Each way runs in a process of its own, so that its peak memory is its
own: of the process on a CPU, of PyTorch's allocator on a GPU. The first two steps warm up.

A step is generation, reward, forward, backward and AdamW. Both are fp32 on a CPU; on a GPU TRL runs
its own default (fp32 weights under bf16 autocast), we bf16 weights over fp32 masters.

`learn` sets the reward of both beside each other after equal time (on a CPU the processor's, which
other work does not change; on a GPU by the clock), with equal settings of GRPO and AdamW: the share
of odd ids in an answer, which a model of random weights begins at a half.

``python -m m2gym.backends.local.bench_step learn`` (or ``step``) prints a row a line, each as soon
as it is known; of a way that fails the row says so, and the other's stands.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

MODULE = "m2gym.backends.local.bench_step"

WARM = 2
"""Steps that are not measured."""

LAST = 10
"""Updates whose reward is averaged."""

Row = dict[str, Any]
"""A figure with what it is of; ``failed`` where there is none."""


@dataclass(frozen=True)
class Work:
    """A step's size: ``groups`` prompts of ``prompt`` tokens, ``group`` answers of ``new`` each.

    ``seed`` is of what is sampled; no step of TRL's begins after ``budget`` seconds of `clock`.
    """

    shape: str
    groups: int
    group: int
    prompt: int
    new: int
    steps: int = 6
    device: str = "cpu"
    experts: str = ""
    lr: float = 1e-6
    seed: int = 0
    budget: float = math.inf

    @property
    def clock(self) -> str:
        """Which of a way's times equal time is by."""
        return "cpu" if self.device == "cpu" else "seconds"

    @property
    def text(self) -> str:
        """For a table."""
        size = f"{self.groups} × {self.group} × ({self.prompt} + {self.new})"
        return f"{self.shape}, {size}" + (f", experts {self.experts}" if self.experts else "")


CPU = (Work("llama-3m", 1, 16, 64, 32), Work("llama-11m", 1, 8, 512, 64, 4))
"""The first is the trial of docs: 16 × (64 + 32)."""
GPU = (
    Work("smollm2-135m", 1, 16, 1024, 128, 4, "cuda"),
    Work("m2-1b", 4, 8, 1024, 64, 3, "cuda", "m2_triton"),
    Work("m2-1b", 4, 8, 1024, 64, 3, "cuda", "grouped_mm"),
)
"""The second and third differ in who computes the experts; TRL runs the first only."""


LEARN = Work("llama-3m", 1, 16, 64, 32, 40, lr=1e-3)
"""What `learn` compares, on the device that there is."""

SEEDS = (0, 1, 2)

FASTER = 10
"""Times our number of updates that TRL may make in our time."""


def run(work: Sequence[Work] | None = None) -> Iterator[Row]:
    """A row a size and way, those for the device that there is unless others are named; without
    TRL only our own."""
    ways = ("m2gym", "trl") if find_spec("trl") else ("m2gym",)
    for one in {"cpu": CPU, "cuda": GPU}[_device()] if work is None else work:
        for way in ways:
            if way == "m2gym" or not one.experts:
                yield _step(way, one)


def learn(work: Work | None = None, seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """By seed, what each way has learnt (the mean reward of its last ten updates) in the time that
    our updates take; none without TRL."""
    if find_spec("trl"):
        for seed in seeds:
            yield from _learnt(replace(work or replace(LEARN, device=_device()), seed=seed))


def _learnt(work: Work) -> Iterator[Row]:
    ours = _child_of("m2gym", work)
    budget = sum(ours.get(work.clock, [math.inf]))
    yield _after(budget, "m2gym", work, ours)
    steps = work.steps * (FASTER if budget < math.inf else 1)
    theirs = _child_of("trl", replace(work, steps=steps, budget=budget))
    yield _after(budget, "trl", work, theirs)


def _after(budget: float, way: str, work: Work, found: Row) -> Row:
    unit = "CPU s" if work.clock == "cpu" else "s"
    what = f"reward after {budget:.3g} {unit}, {way}, {work.text}, seed {work.seed}"
    if "failed" in found:
        return {"what": what, **found}
    done = sum(end <= budget * (1 + 1e-9) for end in accumulate(found[work.clock]))
    return {
        "what": what,
        "reward": statistics.fmean(found["rewards"][max(0, done - LAST) : max(1, done)]),
        "reward_at_first": found["rewards"][0],
        "updates": done,
        "device": work.device,
    }


def _step(way: str, work: Work) -> Row:
    what = f"training step, {way}, {work.text}"
    found = _child_of(way, work)
    if "failed" in found:
        return {"what": what, **found}
    seconds = statistics.median(found["seconds"])
    return {
        "what": what,
        "seconds": seconds,
        "tokens_per_second": work.groups * work.group * (work.prompt + work.new) / seconds,
        "cpu_seconds": statistics.median(found["cpu"]),
        "peak_mb": found["peak"] / 2**20,
        "generate": found.get("generate"),
        "outside": found.get("outside"),
        "device": work.device,
    }


def _child_of(way: str, work: Work) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, way, json.dumps(asdict(work))],
        stdout=subprocess.PIPE,
        check=False,
        env={**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode != 0:
        return {"failed": f"its process ended with {done.returncode}; its error stands above"}
    found: Row = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return found


def _prompts(work: Work) -> list[list[int]]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.integers(3, 2000, work.prompt).tolist() for _ in range(work.groups)]


def _reward(ids: Sequence[int]) -> float:
    return sum(i % 2 for i in ids) / len(ids)


def _ours(work: Work) -> dict[str, Any]:
    import torch

    from m2gym.backends.local.bench import shaped
    from m2gym.backends.local.hooked import HookedModel, set_experts
    from m2gym.backends.local.plots import share_outside, times
    from m2gym.backends.local.rollouts import PromptRollouts
    from m2gym.backends.local.trainer import LocalTrainer
    from m2gym.backends.train_config import TrainConfig

    dtype = torch.bfloat16 if work.device == "cuda" else torch.float32
    prompts = {str(n): ids for n, ids in enumerate(_prompts(work))}
    rollouts = PromptRollouts(prompts, lambda task, ids: _reward(ids))
    cpu: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(
            env="prompts",
            model=work.shape,
            out=Path(out) / "run",
            algorithm={"id": "grpo"},
            train={
                "steps": work.steps + WARM,
                "groups": work.groups,
                "group_size": work.group,
                "lr": work.lr,
                "seed": work.seed,
                "max_tokens": work.new,
                "save_every": 10**6,
            },
        )
        plain = shaped(work.shape, dtype, work.device)
        if work.experts:
            set_experts(plain, work.experts)
        model = HookedModel(plain)
        trainer = LocalTrainer(
            config, model, rollouts, told=lambda row: cpu.append(time.process_time())
        )
        rows = asyncio.run(trainer.run()).rows[WARM:]
        trainer.engine.close()
    return {
        "seconds": [row["seconds"] for row in rows],
        "cpu": [b - a for a, b in zip(cpu[WARM - 1 :], cpu[WARM:], strict=False)],
        "generate": statistics.median(times(row)["engine"] for row in rows),
        "outside": share_outside(rows),
        "rewards": [row["reward"] for row in rows],
    }


def _trl(work: Work) -> dict[str, Any]:
    from m2gym.backends.local.bench import shaped
    from m2gym.backends.train_config import TrainSettings

    datasets, tokenizers, transformers, trl = map(
        import_module, ("datasets", "tokenizers", "transformers", "trl")
    )
    model = shaped(work.shape, _float32(), work.device)
    vocabulary = {f"t{n}": n for n in range(model.config.vocab_size)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="t2", eos_token="t1", padding_side="left"
    )
    seconds: list[float] = []
    cpu: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        """Notes when every step ends."""

        def on_step_begin(self, *args: Any, **options: Any) -> None:
            self.begun = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> Any:
            _wait(work.device)
            seconds.append(time.perf_counter() - self.begun[0])
            cpu.append(time.process_time() - self.begun[1])
            spent = cpu if work.clock == "cpu" else seconds
            control.should_training_stop |= sum(spent[WARM:]) > work.budget
            return control

    rewards: list[float] = []

    def reward(completion_ids: list[list[int]], **options: Any) -> list[float]:
        found = [_reward(ids) for ids in completion_ids]
        rewards.append(statistics.fmean(found))
        return found

    with tempfile.TemporaryDirectory() as out:
        config = trl.GRPOConfig(
            output_dir=out,
            max_steps=work.steps + WARM,
            per_device_train_batch_size=work.groups * work.group,
            num_generations=work.group,
            max_completion_length=work.new,
            generation_kwargs={"min_new_tokens": work.new},
            learning_rate=work.lr,
            seed=work.seed,
            lr_scheduler_type="constant",
            adam_beta2=TrainSettings().betas[1],
            adam_epsilon=TrainSettings().eps,
            weight_decay=TrainSettings().weight_decay,
            max_grad_norm=TrainSettings().clip or 0.0,
            beta=0.0,
            temperature=1.0,
            loss_type="grpo",
            bf16=work.device == "cuda",
            use_cpu=work.device == "cpu",
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        rows = [{"prompt": " ".join(f"t{i}" for i in ids)} for ids in _prompts(work)]
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows * (work.steps + WARM)),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return {"seconds": seconds[WARM:], "cpu": cpu[WARM:], "rewards": rewards[WARM:]}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _float32() -> Any:
    import torch

    return torch.float32


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _peak(device: str) -> int:
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _child(way: str, spec: str) -> None:
    work = Work(**json.loads(spec))
    found = {"m2gym": _ours, "trl": _trl}[way](work)
    print(json.dumps({**found, "peak": _peak(work.device)}))


def _shown(what: str) -> None:
    for row in learn() if what == "learn" else run():
        print(json.dumps(row, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    _child(*sys.argv[1:]) if len(sys.argv) > 2 else _shown(sys.argv[1])
