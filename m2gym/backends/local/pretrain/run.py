"""The loop of pre-training: generated rows, AdamW, balance, measures, resumable checkpoints."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m2gym.backends.local import checkpoint
from m2gym.backends.local.hooked import load_causal
from m2gym.backends.local.optimiser import FLOOR, MasterAdamW
from m2gym.backends.local.pretrain import balance, corpus
from m2gym.backends.local.pretrain.measure import split_rows, success
from m2gym.backends.local.pretrain.mtp import LATE_WEIGHT, WEIGHT, Ahead, TwoTokens, drafts
from m2gym.backends.local.pretrain.network import Network
from m2gym.backends.train_config import TrainSettings
from m2gym.core.errors import InputError
from m2gym.models.nano.shape import DENSE, SHAPE, build, count

LOG_EVERY = 100
BLOCK = 64
"""Batches that are shuffled together when a batch is used more than once."""


@dataclass(frozen=True)
class Settings:
    """Of a pre-training run; all are the project's choices, and those of the weights that ship.

    ``rows`` x ``length`` tokens a step; every batch is used ``reuse`` times. The rate rises over
    ``warmup`` steps, is constant up to ``flat`` of all, and falls linearly to a tenth.
    """

    steps: int = 18_000
    rows: int = 160
    length: int = 513
    reuse: int = 1
    lr: float = 4e-3
    warmup: int = 200
    flat: float = 0.6
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    balanced: bool = True
    dense: bool = False
    compiled: bool = True
    device: str = "cuda"
    workers: int = 14
    probes: int = 256
    measure_every: int = 1000
    save_every: int = 2000


def rate(settings: Settings, step: int) -> float:
    """The learning rate of a step, from 0.

    >>> s = Settings(steps=100, warmup=10, flat=0.5, lr=1.0)
    >>> [round(rate(s, n), 3) for n in (0, 10, 49, 100)]
    [0.1, 1.0, 1.0, 0.1]
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    falling = (step / settings.steps - settings.flat) / (1 - settings.flat)
    return settings.lr * (1 - (1 - FLOOR) * min(1.0, max(0.0, falling)))


_encoder: corpus.Encoder | None = None


def _ready(tokenizer: Any) -> None:
    global _encoder
    _encoder = corpus.Encoder(tokenizer)


def _make(job: tuple[int, int, int, int]) -> NDArray[np.uint16]:
    assert _encoder is not None
    seed, number, count_, length = job
    return corpus.rows(_encoder, seed, number, count_, length)


def batches(settings: Settings, tokenizer: Any, first: int) -> Iterator[NDArray[np.uint16]]:
    """The batch of every step from ``first`` on: the same, however many processes make them."""
    per_block = BLOCK * settings.reuse
    begin = first // per_block * BLOCK
    last = -(-settings.steps // per_block) * BLOCK
    jobs = ((settings.seed, n, settings.rows, settings.length) for n in range(begin, last))
    if settings.workers == 0:
        _ready(tokenizer)
        made: Iterator[NDArray[np.uint16]] = map(_make, jobs)
        yield from _ordered(made, settings, first, begin)
        return
    context = multiprocessing.get_context("fork")
    with context.Pool(settings.workers, _ready, (tokenizer,)) as pool:
        yield from _ordered(pool.imap(_make, jobs), settings, first, begin)


def _ordered(
    made: Iterator[NDArray[np.uint16]], settings: Settings, first: int, begin: int
) -> Iterator[NDArray[np.uint16]]:
    if settings.reuse == 1:
        for n, batch in enumerate(made, begin):
            if first <= n < settings.steps:
                yield batch
        return
    step = begin * settings.reuse
    while step < settings.steps:
        block = [next(made) for _ in range(BLOCK)]
        for again in range(settings.reuse):
            order = np.random.default_rng([settings.seed, step, again]).permutation(BLOCK)
            for n in order:
                if first <= step < settings.steps:
                    yield block[n]
                step += 1


class Pretraining:
    """A run in ``out``: ``log.jsonl``, ``checkpoints/``, and at the end ``model/``.

    Args:
        settings: see `Settings`. tokenizer: of transformers. out: the run's folder.
        begin: a folder of weights to start from; random ones when left out.
        resume: go on from the newest checkpoint there.
        stop_after: seconds after which the run saves and ends, to be resumed.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizer: Any,
        out: Path,
        *,
        begin: Path | None = None,
        resume: bool = False,
        stop_after: float | None = None,
    ) -> None:
        self.settings, self.tokenizer, self.out = settings, tokenizer, out
        self.stop_after, self.begin = stop_after, begin
        out.mkdir(parents=True, exist_ok=True)
        self.begun = time.perf_counter()
        # Worker processes are forked before the first CUDA call.
        self.state = checkpoint.load(out / "checkpoints") if resume else None
        if not resume and (out / "log.jsonl").exists():
            raise InputError(f"{out} holds a run already; resume it, or name another")
        self.step = 0 if self.state is None else int(self.state["step"])
        self.seconds = 0.0 if self.state is None else float(self.state["seconds"])
        self.batches = batches(settings, tokenizer, self.step)
        self.first = next(self.batches)

    def run(self) -> Path | None:
        """Train; the folder of the weights, ``None`` where time ended first."""
        s = self.settings
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(s.seed)
        model = build(DENSE if s.dense else SHAPE)
        if self.begin is not None:
            model.load_state_dict(load_causal(str(self.begin), dtype=torch.float32).state_dict())
        kind = torch.bfloat16 if s.device == "cuda" else torch.float32
        network = Network(model, kind)
        both = TwoTokens(network, Ahead()).to(s.device)
        optimiser = _optimiser(both, s)
        if self.state is not None:
            model.load_state_dict(self.state["buffers"], strict=False)
            optimiser.load(self.state["optimiser"])
        compiled: Any = torch.compile(both) if s.compiled else both
        probes = self._probes()
        whole, used = count(model)
        ahead = sum(p.numel() for p in both.ahead.parameters())
        self._log({"parameters": whole, "active": used, "mtp": ahead, "settings": asdict(s)})
        seen: list[torch.Tensor] = []
        load = None
        for batch in itertools.chain([self.first], self.batches):
            losses, load_L_E = self._step(compiled, optimiser, model, batch)
            seen.append(losses)
            load = load_L_E if load is None else load + load_L_E
            if self.step % LOG_EVERY == 0 or self.step == s.steps:
                loss, ahead_loss = torch.stack(seen).mean(0).tolist()
                row = {"step": self.step, "loss": loss, "mtp_loss": ahead_loss}
                row["lr"] = rate(s, self.step)
                row |= balance.use(load)
                row["seconds"] = self.seconds + time.perf_counter() - self.begun
                self._log(row)
                seen.clear()
                load = None
            if self.step % s.measure_every == 0 or self.step == s.steps:
                self._measure(both, probes)
            late = (
                self.stop_after is not None and time.perf_counter() - self.begun > self.stop_after
            )
            if late or self.step % s.save_every == 0 or self.step == s.steps:
                self._save(model, optimiser)
            if late and self.step < s.steps:
                return None
        model.save_pretrained(self.out / "model")
        both.ahead.save(self.out / "model")
        self.tokenizer.save_pretrained(self.out / "model")
        return self.out / "model"

    def _step(
        self, compiled: Any, optimiser: MasterAdamW, model: Any, batch: NDArray[np.uint16]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        s = self.settings
        ids, target, trained = split_rows(batch, s.device)
        nll, load_L_E, ahead_nll = compiled(ids, target)
        loss = (nll * trained).sum() / trained.sum()
        ahead_loss = (ahead_nll * trained[:, 1:]).sum() / trained[:, 1:].sum()
        late = self.step >= s.flat * s.steps
        (loss + (LATE_WEIGHT if late else WEIGHT) * ahead_loss).backward()
        lr = rate(s, self.step)
        optimiser.step(lr)
        if s.balanced and not s.dense:
            balance.balance(model, load_L_E.detach(), balance.SPEED * lr / s.lr)
        self.step += 1
        return torch.stack((loss, ahead_loss)).detach(), load_L_E.detach()

    def _probes(self) -> dict[str, Any]:
        encoder = corpus.Encoder(self.tokenizer)
        s = self.settings
        return {
            novelty: corpus.probe_rows(encoder, s.seed, s.probes, s.length, novelty)
            for novelty in ("combination", "unseen")
        }

    @torch.no_grad()
    def _measure(self, both: TwoTokens, probes: dict[str, Any]) -> None:
        row: dict[str, Any] = {"step": self.step}
        for novelty, (made, spans) in probes.items():
            ids, target, trained = split_rows(made, self.settings.device)
            nll, _ = both.network(ids, target)
            row[novelty] = {**success(nll, spans), **drafts(both, ids, target, trained)}
        self._log(row)

    def _save(self, model: Any, optimiser: MasterAdamW) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds + time.perf_counter() - self.begun,
            "buffers": {
                n: b.detach().cpu() for n, b in model.named_buffers() if "correction_bias" in n
            },
            "optimiser": optimiser.state(),
        }
        checkpoint.save(self.out / "checkpoints", self.step, state, keep=1)

    def _log(self, row: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def _optimiser(model: Any, s: Settings) -> MasterAdamW:
    """AdamW without decay of norms."""
    made = MasterAdamW(
        model,
        TrainSettings(lr=s.lr, weight_decay=s.weight_decay, clip=s.clip, eps=1e-10),
    )
    group = made.adamw.param_groups[0]
    flat = [p for p in group["params"] if p.ndim < 2]
    group["params"] = [p for p in group["params"] if p.ndim >= 2]
    made.adamw.add_param_group({"params": flat, "weight_decay": 0.0})
    return made
