"""One update: graded groups → advantages → merged micro-batches → objective → gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.optimiser import MasterAdamW
from m2gym.backends.local.process import completion_advantages
from m2gym.backends.local.reference import Reference
from m2gym.backends.train_config import AlgorithmConfig
from m2gym.core.errors import InfraError, InputError
from m2gym.forge.advantages import group_advantages
from m2gym.forge.attention import tree_attention
from m2gym.forge.attention_chunks import chunk_attention, chunks
from m2gym.forge.objectives import (
    Cispo,
    Gspo,
    Loss,
    Objective,
    PpoClip,
    TokenBatch,
    dapo,
    importance_weight,
    staleness_weight,
)
from m2gym.forge.pack import Budget, Packing, pack
from m2gym.forge.records import PoolTrajectory
from m2gym.forge.soundness import check_merging
from m2gym.forge.targets import Scores, Targets, targets_of
from m2gym.forge.tree import Sample, Tree, build_tree

HEAD_ROWS = 1024
"""Positions whose logits exist at once; the project's choice."""

LEAST_TOKENS = 64
"""Micro-batches are not halved below this when memory runs out; the project's choice."""


def objective_of(config: AlgorithmConfig) -> Objective:
    """The objective; published values where the configuration leaves them out.

    Raises:
        InputError: a term that the objective does not have.
    """
    own = {
        name: value
        for name in ("epsilon_low", "epsilon_high")
        if (value := getattr(config, name)) is not None
    }
    terms = {name: value for name in ("kl", "entropy") if (value := getattr(config, name))}
    kinds: dict[str, tuple[Callable[..., Objective], set[str]]] = {
        "cispo": (Cispo, {"epsilon_high", "entropy"}),
        "grpo": (PpoClip, {"epsilon_low", "epsilon_high", "kl", "entropy"}),
        "dapo": (
            partial(PpoClip, **{**vars(dapo()), **own}),
            {"epsilon_low", "epsilon_high", "kl", "entropy"},
        ),
        "gspo": (Gspo, {"epsilon_low", "epsilon_high"}),
    }
    kind, known = kinds[config.id]
    wrong = sorted({*own, *terms} - known)
    if wrong:
        raise InputError(f"{config.id} has no {wrong[0]}; leave it out, or choose grpo or dapo")
    return kind(**{**own, **terms})


MATRICES_CHECKED = 8
"""How many weight matrices' gradients the check before the first update compares, about."""


@dataclass(frozen=True, eq=False)
class Graded:
    """What an update trains on: a sample a completion, its advantage and weight version a token."""

    samples: tuple[Sample, ...]
    advantage_S: NDArray[np.float64]
    versions: tuple[NDArray[np.int32], ...]
    stats: dict[str, float]


def graded(groups: Sequence[Sequence[PoolTrajectory]], config: AlgorithmConfig) -> Graded:
    """Samples of groups; every completion of an episode has the episode's advantage, or with
    ``config.process`` one of its own."""
    episodes = [(n, episode) for n, group in enumerate(groups) for episode in group]
    rewards = [float(episode.reward or 0.0) for _, episode in episodes]
    found = group_advantages(
        rewards, [n for n, _ in episodes], kind=config.advantage, fraction=config.fraction
    )
    samples, advantages, versions = [], [], []
    for (_, episode), advantage in zip(episodes, found.value_S.tolist(), strict=True):
        for c in episode.completions:
            samples.append(
                Sample.of(
                    c.prompt_ids.astype(np.int64),
                    c.response_ids.astype(np.int64),
                    c.logprobs_T.astype(np.float64),
                )
            )
            advantages.append(advantage)
            versions.append(c.versions_T)
    value_S = np.array(advantages)
    if config.process is not None:
        value_S = completion_advantages(groups, config, config.process)
    lengths = [sum(len(c.response_ids) for c in episode.completions) for _, episode in episodes]
    stats = {
        "reward": float(np.mean(rewards)),
        "reward_std": float(np.std(rewards)),
        "episodes": float(len(episodes)),
        "completions": float(len(samples)),
        "length": float(np.mean(lengths)),
        "groups_equal": float(found.equal + found.lone),
        "groups": float(found.groups),
    }
    return Graded(tuple(samples), value_S, tuple(versions), stats)


class Learner:
    """Holds the weights in training.

    Args:
        model: trained in place. config: objective and advantages.
        optimiser: over its weights.
        temperature: that tokens were sampled at.
        micro_tokens: of a micro-batch, shared prefixes counted once; halved for good when an update
            does not fit in memory.
    """

    def __init__(
        self,
        model: HookedModel,
        config: AlgorithmConfig,
        optimiser: MasterAdamW,
        *,
        temperature: float = 1.0,
        micro_tokens: int = 8192,
    ) -> None:
        self.model, self.optimiser = model, optimiser
        self.budget = Budget(micro_tokens)
        self.reference: Reference | None = None
        self.configure(config, temperature)

    def configure(self, config: AlgorithmConfig, temperature: float) -> None:
        """Go on with another objective and sampling temperature: a new stage. Where a KL term is
        wanted for the first time, its reference is the weights as they are."""
        self.config, self.temperature = config, temperature
        self.objective = objective_of(config)
        if config.kl and self.reference is None:
            self.reference = Reference(self.model)

    def update(self, batch: Graded, version: int, lr: float) -> dict[str, float]:
        """Train on a batch, which version ``version`` of the weights is the first to see.

        Samples whose advantage is 0 have no gradient and are not computed, but count in every mean,
        unless a KL or entropy term wants them. Out of memory, the update begins again with
        micro-batches of half the tokens (``oom`` counts); a sample that fits in none is masked.

        Raises:
            InfraError: no sample fits in a micro-batch, or no micro-batch in memory.
        """
        regularised = self.config.kl or self.config.entropy
        wanted = [n for n in range(len(batch.samples)) if regularised or batch.advantage_S[n] != 0]
        tokens = sum(int(s.trained_T.sum()) for s in batch.samples)
        lag = np.concatenate([version - v for v in batch.versions])
        stats = {
            "lag_mean": float(lag.mean()),
            "lag_max": float(lag.max()),
            "tokens": float(tokens),
        }
        if not wanted:
            return {**stats, "grad_norm": 0.0, "computed_tokens": 0.0, "merge": 1.0}
        begun, oom = time.perf_counter(), 0
        with self.model.cores():
            while (done := self._gradients(batch, wanted, tokens, version, oom > 0)) is None:
                oom += 1
                self._halve()
            packed, seen = done
            gradients = time.perf_counter()
            norm = self._stepped(lr)
        return {
            **stats,
            **seen.stats(),
            "grad_norm": norm,
            "computed_tokens": float(packed.tokens),
            "merge": sum(len(batch.samples[n].ids_T) for n in wanted) / max(1, packed.tokens),
            "oversize": float(len(packed.masked)),
            "oom": float(oom),
            "seconds_gradients": gradients - begun,
            "seconds_optimiser": time.perf_counter() - gradients,
        }

    def _gradients(
        self, batch: Graded, wanted: Sequence[int], tokens: int, version: int, halved: bool
    ) -> tuple[Packing, _Seen] | None:
        """All micro-batches forward and backward; ``None`` when memory ran out."""
        packed = pack([batch.samples[n] for n in wanted], self.budget, oversize="mask")
        if not packed.micro_batches:
            raise InfraError(
                f"every sample is longer than a micro-batch of {self.budget.tokens} tokens"
                + (", which is all that fits in memory" if halved else "")
                + "; raise backend.micro_tokens, or set backend.checkpointing or backend.lora"
            )
        seen = _Seen()
        self.model.base.train()
        try:
            for micro in packed.micro_batches:
                chosen = [wanted[n] for n in micro.samples]
                loss = self._loss(batch, chosen, tokens, len(batch.samples), version, seen)
                loss.value.backward()  # type: ignore[no-untyped-call]
                self.optimiser.collect()
        except RuntimeError as error:
            if not no_memory(error):
                raise
            return None
        finally:
            self.model.base.eval()
        return packed, seen

    def _stepped(self, lr: float) -> float:
        try:
            return self.optimiser.step(lr)
        except RuntimeError as error:
            if not no_memory(error):
                raise
            self.optimiser.clear()
            raise InfraError(
                "no memory for AdamW's moments, two numbers of 32 bits a weight; set backend.lora, "
                "or a smaller backend.kv_tokens"
            ) from error

    def _halve(self) -> None:
        self.optimiser.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = self.budget.tokens // 2
        if half < LEAST_TOKENS:
            raise InfraError(
                f"an update needs more memory than there is, even in micro-batches of "
                f"{self.budget.tokens} tokens; set backend.checkpointing or backend.lora"
            )
        self.budget = Budget(half)

    def scores(
        self, samples: Sequence[Sample], temperature: float | None = None
    ) -> tuple[Targets, Scores]:
        """Logprobs and entropies of samples merged into one tree."""
        tree = build_tree(samples, vocabulary=self.model.vocabulary)
        targets = targets_of(tree)
        with self.model.cores():
            return targets, self._score(self.model, tree, targets, temperature)

    def check_merging(self) -> dict[str, float]:
        """Before the first update: two samples with one prefix, merged and each alone, by the very
        pass that trains; the relative differences of logprobs and gradients.

        Raises:
            MergeMismatchError: they differ by more than rounding: 1e-3, in 16 bits 0.5, where a
                router's near ties fall either way (the project's choice).
        """
        ids = [n % self.model.vocabulary for n in (1, 2, 3, 5, 8, 13, 21)]
        samples = [Sample.of(ids[:4], [ids[n], ids[n - 1], ids[4]]) for n in (5, 6)]
        matrices = [p for p in self.model.base.parameters() if p.requires_grad and p.ndim > 1]
        half = self.model.dtype in (torch.bfloat16, torch.float16)
        return check_merging(
            lambda some: self.scores(some, 1.0)[1].logprobs_M,
            samples,
            matrices[:: max(1, len(matrices) // MATRICES_CHECKED)],
            tolerance=0.5 if half else 1e-3,
        )

    @torch.no_grad()
    def nll(self, samples: Sequence[Sample]) -> float:
        """Mean over samples of the summed negative log-likelihood of what they train on, in nats
        and at temperature 1; in micro-batches, a sample that fits in none left out (NaN where all
        are)."""
        parts = pack(samples, self.budget, oversize="mask").micro_batches
        count = sum(len(part.samples) for part in parts)
        summed = sum(
            float(self.scores([samples[n] for n in part.samples], 1.0)[1].logprobs_M.sum())
            for part in parts
        )
        return -summed / count if count else math.nan

    def _loss(
        self,
        batch: Graded,
        chosen: Sequence[int],
        tokens: int,
        samples: int,
        version: int,
        seen: _Seen,
    ) -> Loss:
        tree = build_tree([batch.samples[n] for n in chosen], vocabulary=self.model.vocabulary)
        targets = targets_of(tree)
        scores = self._score(self.model, tree, targets)
        device = scores.logprobs_M.device

        def flat(values: NDArray[np.float64]) -> torch.Tensor:
            return torch.as_tensor(values, dtype=scores.logprobs_M.dtype, device=device)

        engine_M = flat(targets.old_logprobs_M)
        old_M, weight_M = engine_M, None
        if self.config.importance_cap is not None:
            old_M = scores.logprobs_M.detach()
            weight_M = importance_weight(old_M, engine_M, self.config.importance_cap)
        if self.config.half_life is not None:
            lag_M = version - np.concatenate([batch.versions[n] for n in chosen])
            stale_M = staleness_weight(torch.as_tensor(lag_M), self.config.half_life)
            stale_M = stale_M.to(device, scores.logprobs_M.dtype)
            weight_M = stale_M if weight_M is None else weight_M * stale_M
        loss = self.objective(
            TokenBatch(
                logprobs_M=scores.logprobs_M,
                old_logprobs_M=old_M,
                advantage_M=flat(batch.advantage_S[list(chosen)][targets.sample_M]),
                sample_M=torch.as_tensor(targets.sample_M, device=device),
                weight_M=weight_M,
                entropy_M=scores.entropy_M,
                reference_M=self._reference_scores(tree, targets),
                total_tokens=tokens,
                total_samples=samples,
            )
        )
        fresh_M = np.concatenate([batch.versions[n] for n in chosen]) == version
        difference_M = (scores.logprobs_M.detach() - engine_M).abs()
        seen.add(
            {**loss.stats, "entropy": float(scores.entropy_M.detach().mean())},
            len(old_M),
            difference_M[torch.as_tensor(fresh_M, device=device)],
            float(loss.value.detach()),
        )
        return loss

    def _reference_scores(self, tree: Tree, targets: Targets) -> torch.Tensor | None:
        if self.reference is None or not self.config.kl:
            return None
        with torch.no_grad(), self.reference.weights() as model:
            return self._score(model, tree, targets).logprobs_M

    def _score(
        self, model: HookedModel, tree: Tree, targets: Targets, temperature: float | None = None
    ) -> Scores:
        device = model.device
        scale = self.temperature if temperature is None else temperature
        cut = chunks(tree.layout) if device.type == "cpu" else None

        def attend(
            layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
        ) -> torch.Tensor:
            if cut is not None:
                return chunk_attention(q, k, v, cut, scale)
            return tree_attention(q, k, v, tree.layout, scale=scale, backend="rectangles")

        hidden_T_H = model.hidden(
            torch.as_tensor(tree.ids_T, device=device),
            torch.as_tensor(tree.layout.position_T, device=device),
            attend,
        )
        hidden_P_H = hidden_T_H[torch.as_tensor(targets.position_P, device=device)]
        target_P = torch.as_tensor(targets.target_P, device=device)
        parts = [
            checkpoint(self._head, model, h, t, scale, use_reentrant=False)
            for h, t in zip(
                torch.split(hidden_P_H, HEAD_ROWS), torch.split(target_P, HEAD_ROWS), strict=True
            )
        ]
        logp_P, entropy_P = (torch.cat(x) for x in zip(*parts, strict=True))
        pair_M = torch.as_tensor(targets.pair_M, device=device)
        return Scores(logp_P[pair_M], entropy_P[pair_M])

    def _head(
        self,
        model: HookedModel,
        hidden_P_H: torch.Tensor,
        target_P: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logp_P_V = torch.log_softmax(model.logits(hidden_P_H) / temperature, -1)
        entropy_P = -(logp_P_V.exp() * logp_P_V).sum(-1)
        return logp_P_V.gather(1, target_P[:, None])[:, 0], entropy_P


class _Seen:
    """Statistics of micro-batches, put together."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.tokens = self.fresh = 0
        self.loss = self.ratio_max = self.difference = self.difference_max = 0.0

    def add(self, stats: dict[str, float], tokens: int, fresh_M: torch.Tensor, loss: float) -> None:
        self.tokens += tokens
        self.loss += loss
        self.ratio_max = max(self.ratio_max, stats["ratio_max"])
        for name, value in stats.items():
            if name not in ("tokens", "masked", "ratio_max"):
                self.sums[name] = self.sums.get(name, 0.0) + value * tokens
        if len(fresh_M):
            self.fresh += len(fresh_M)
            self.difference += float(fresh_M.sum())
            self.difference_max = max(self.difference_max, float(fresh_M.max()))

    def stats(self) -> dict[str, float]:
        found = {name: value / self.tokens for name, value in self.sums.items()}
        found |= {"loss": self.loss, "ratio_max": self.ratio_max}
        if self.fresh:
            found["engine_difference_mean"] = self.difference / self.fresh
            found["engine_difference_max"] = self.difference_max
        return found


def no_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
