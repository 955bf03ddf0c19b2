"""Objectives: from logprobs and advantages to a loss, with what was clipped.

All take the flat trained tokens (length M, see `m2gym.forge.targets`), so they are the same for
merged and unmerged batches, and clip per sample before anything is summed. r = exp(logprob - old).

==========  ==========================================================  ====================
objective   per-token term (to be maximised)                            mean over
==========  ==========================================================  ====================
`Cispo`     sg(min(r, 1 + eps_high)) * A * logprob                      tokens of the batch
`PpoClip`   min(r * A, clip(r, 1 - eps_low, 1 + eps_high) * A)          samples, then batch
            (GRPO; with ``mean="tokens"`` DAPO)                         (or tokens)
`Gspo`      min(s * A, clip(s, …) * A), s = exp(mean over the sample)   samples
==========  ==========================================================  ====================

Sources: CISPO [M1 (arXiv 2506.13585) 3.1; M2 (arXiv 2605.26494) 6]; PPO (arXiv 1707.06347) eq. 7;
GRPO (arXiv 2402.03300) eq. 3; DAPO (arXiv 2503.14476) eq. 8; GSPO (arXiv 2507.18071) eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from m2gym.core.errors import InputError

CISPO_EPSILON_HIGH = 3.0
"""Undisclosed in M1 and M2: this project's choice (a ratio weighs at most 4)."""

IMPORTANCE_CAP = 2.0
"""Cap of the truncated importance weight between trainer and engine: this project's choice."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Flat trained tokens; every tensor has length M.

    ``logprobs_M``: of the policy in training, with gradient. ``old_logprobs_M``: of the policy the
    ratio is against. ``advantage_M``. ``sample_M``: sample of each token, from 0. ``mask_M``: false
    leaves a token out of every term and every mean. ``weight_M``: importance weights, constants.
    ``reference_M``, ``entropy_M``: needed by objectives with a KL or an entropy term.
    ``total_tokens``, ``total_samples``: of the whole batch, when this is one micro-batch of it: the
    micro-batches' losses then sum to the batch's.
    """

    logprobs_M: torch.Tensor
    old_logprobs_M: torch.Tensor
    advantage_M: torch.Tensor
    sample_M: torch.Tensor
    mask_M: torch.Tensor | None = None
    weight_M: torch.Tensor | None = None
    reference_M: torch.Tensor | None = None
    entropy_M: torch.Tensor | None = None
    total_tokens: int | None = None
    total_samples: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_M") and value is not None and value.shape != self.logprobs_M.shape:
                raise InputError(
                    f"{name} has shape {tuple(value.shape)}, expected "
                    f"{tuple(self.logprobs_M.shape)}: one entry a trained token"
                )
        mask = self.kept_M
        for name in ("logprobs_M", "old_logprobs_M", "advantage_M", "weight_M", "reference_M"):
            value = getattr(self, name)
            if value is not None and not bool(torch.isfinite(value.detach()[mask]).all()):
                raise InputError(
                    f"{name} holds NaN or infinity in a token that is not masked; mask the sample"
                )

    @property
    def kept_M(self) -> torch.Tensor:
        """Tokens in the loss."""
        if self.mask_M is None:
            return torch.ones_like(self.sample_M, dtype=torch.bool)
        return self.mask_M.bool()


@dataclass(frozen=True, eq=False)
class Loss:
    """``value``: to be minimised, with gradient; ``stats``: plain numbers for a log line."""

    value: torch.Tensor
    stats: dict[str, float]


Objective = Callable[[TokenBatch], Loss]


def _ratio(batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Ratio and its logarithm; 1 where masked, so that what is masked cannot spoil a gradient."""
    log_ratio = batch.logprobs_M - batch.old_logprobs_M.detach()
    log_ratio = torch.where(batch.kept_M, log_ratio, torch.zeros_like(log_ratio))
    return torch.exp(log_ratio), log_ratio


def _token_mean(term_M: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    kept = batch.kept_M
    total = int(kept.sum()) if batch.total_tokens is None else batch.total_tokens
    if total < 1:
        raise InputError("every token of the batch is masked: there is nothing to train on")
    return torch.where(kept, term_M, torch.zeros_like(term_M)).sum() / total


def _by_sample(term_M: torch.Tensor, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each sample's kept tokens, and which samples have any."""
    kept = batch.kept_M
    samples = int(batch.sample_M.max()) + 1 if len(batch.sample_M) else 0
    zero = torch.zeros_like(term_M)
    total = term_M.new_zeros(samples).index_add(0, batch.sample_M, torch.where(kept, term_M, zero))
    count = term_M.new_zeros(samples).index_add(0, batch.sample_M, kept.to(term_M.dtype))
    return total / count.clamp_min(1), count > 0


def _sample_mean(term_M: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    mean_S, has_S = _by_sample(term_M, batch)
    total = int(has_S.sum()) if batch.total_samples is None else batch.total_samples
    if total < 1:
        raise InputError("every token of the batch is masked: there is nothing to train on")
    return mean_S.sum() / total


def kl_low_variance(logprobs_M: torch.Tensor, reference_M: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = reference - logprob: unbiased for KL(policy, reference), never below
    0 (Schulman's k3; GRPO eq. 4)."""
    d = reference_M.detach() - logprobs_M
    return torch.exp(d) - d - 1


def importance_weight(
    trainer_M: torch.Tensor, engine_M: torch.Tensor, cap: float = IMPORTANCE_CAP
) -> torch.Tensor:
    """min(exp(trainer - engine), cap), a constant: corrects for the policy that really sampled.

    ``trainer_M``: old logprobs recomputed by the trainer; ``engine_M``: those recorded when the
    token was generated, possibly by older weights (truncated importance sampling).
    """
    return torch.exp(trainer_M.detach() - engine_M.detach()).clamp(max=cap)


def staleness_weight(lag_M: torch.Tensor, half_life: float) -> torch.Tensor:
    """0.5 ** (lag / half_life): a token that lags by ``half_life`` versions counts half."""
    if not half_life > 0:
        raise InputError(f"half_life is above 0, got {half_life}")
    return torch.pow(torch.tensor(0.5, dtype=torch.float64), lag_M.double() / half_life)


def _stats(
    batch: TokenBatch, ratio_M: torch.Tensor, high_M: torch.Tensor, low_M: torch.Tensor
) -> dict[str, float]:
    kept = batch.kept_M
    n = max(int(kept.sum()), 1)
    r = ratio_M.detach()[kept].double()
    log_r = torch.log(r.clamp_min(1e-30))
    effective = float(r.sum() ** 2 / (r**2).sum().clamp_min(1e-30) / n) if len(r) else 0.0
    return {
        "tokens": float(kept.sum()),
        "masked": float((~kept).sum()),
        "clipped_high": float((high_M & kept).sum()) / n,
        "clipped_low": float((low_M & kept).sum()) / n,
        "ratio_mean": float(r.mean()) if len(r) else 1.0,
        "ratio_max": float(r.max()) if len(r) else 1.0,
        "kl_old": float((r - 1 - log_r).mean()) if len(r) else 0.0,
        "effective_sample_share": effective,
    }


def _weighted(term_M: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    return term_M if batch.weight_M is None else term_M * batch.weight_M.detach()


def _regularised(
    batch: TokenBatch,
    loss_M: torch.Tensor,
    kl: float,
    entropy: float,
    stats: dict[str, float],
) -> torch.Tensor:
    if kl:
        if batch.reference_M is None:
            raise InputError(f"a KL term of {kl} needs reference_M, the reference's logprobs")
        term = kl_low_variance(batch.logprobs_M, batch.reference_M)
        stats["kl_reference"] = float(_token_mean(term.detach(), batch))
        loss_M = loss_M + kl * term
    if entropy:
        if batch.entropy_M is None:
            raise InputError(f"an entropy term of {entropy} needs entropy_M")
        stats["entropy"] = float(_token_mean(batch.entropy_M.detach(), batch))
        loss_M = loss_M - entropy * batch.entropy_M
    return loss_M


@dataclass(frozen=True)
class Cispo:
    """Clipped importance weight, every token keeps its gradient; no lower clip, no KL.

    ``epsilon_high`` is undisclosed: see `CISPO_EPSILON_HIGH`.
    """

    epsilon_high: float = CISPO_EPSILON_HIGH
    entropy: float = 0.0

    def __call__(self, batch: TokenBatch) -> Loss:
        """Token mean over the batch."""
        ratio, _ = _ratio(batch)
        high = ratio.detach() > 1 + self.epsilon_high
        weight = ratio.detach().clamp(max=1 + self.epsilon_high)
        stats = _stats(batch, ratio, high, torch.zeros_like(high))
        logprobs = torch.where(batch.kept_M, batch.logprobs_M, torch.zeros_like(batch.logprobs_M))
        loss_M = _weighted(-weight * batch.advantage_M * logprobs, batch)
        return Loss(_token_mean(_regularised(batch, loss_M, 0, self.entropy, stats), batch), stats)


@dataclass(frozen=True)
class PpoClip:
    """GRPO as published (``mean="samples"``, 0.2 both ways); `dapo` has DAPO's values.

    ``kl`` weighs the low-variance KL to the reference (ICRL: 0.001), ``entropy`` the entropy bonus
    (ICRL: 0.001).
    """

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    mean: Literal["samples", "tokens"] = "samples"
    kl: float = 0.0
    entropy: float = 0.0

    def __call__(self, batch: TokenBatch) -> Loss:
        """Mean over samples of each sample's token mean, or over all tokens."""
        ratio, _ = _ratio(batch)
        a = batch.advantage_M
        clipped = ratio.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        high = (ratio.detach() > 1 + self.epsilon_high) & (a > 0)
        low = (ratio.detach() < 1 - self.epsilon_low) & (a < 0)
        stats = _stats(batch, ratio, high, low)
        loss_M = _weighted(-torch.minimum(ratio * a, clipped * a), batch)
        loss_M = _regularised(batch, loss_M, self.kl, self.entropy, stats)
        mean = _sample_mean if self.mean == "samples" else _token_mean
        return Loss(mean(loss_M, batch), stats)


def dapo() -> PpoClip:
    """DAPO: clip-higher (0.2, 0.28) and the token mean, no KL."""
    return PpoClip(epsilon_low=0.2, epsilon_high=0.28, mean="tokens")


@dataclass(frozen=True)
class Gspo:
    """Sequence-level ratio and clip; the paper's 3e-4 and 4e-4.

    The tokens of a sample are coupled through its ratio: all of a sample's tokens must be in one
    batch. The advantage is that of the sample; per-token ones are averaged.
    """

    epsilon_low: float = 3e-4
    epsilon_high: float = 4e-4

    def __call__(self, batch: TokenBatch) -> Loss:
        """Mean over samples."""
        _, log_ratio = _ratio(batch)
        log_S, has_S = _by_sample(log_ratio, batch)
        a_S, _ = _by_sample(_weighted(batch.advantage_M, batch), batch)
        s = torch.exp(log_S)
        clipped = s.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        total = int(has_S.sum()) if batch.total_samples is None else batch.total_samples
        if total < 1:
            raise InputError("every token of the batch is masked: there is nothing to train on")
        loss_S = torch.where(has_S, -torch.minimum(s * a_S, clipped * a_S), torch.zeros_like(s))
        high = ((s.detach() > 1 + self.epsilon_high) & (a_S > 0))[batch.sample_M]
        low = ((s.detach() < 1 - self.epsilon_low) & (a_S < 0))[batch.sample_M]
        return Loss(loss_S.sum() / total, _stats(batch, s[batch.sample_M], high, low))


def coefficients(objective: Objective, batch: TokenBatch) -> tuple[Loss, torch.Tensor]:
    """Loss, and its derivative by every logprob (length M).

    ``(coefficient_M * logprobs_M).sum()`` has the objective's gradient, so after
    `m2gym.forge.targets.sum_coefficients` a fused kernel needs the triples only.
    """
    leaf = batch.logprobs_M.detach().requires_grad_()
    values = {**vars(batch), "logprobs_M": leaf}
    if batch.entropy_M is not None:
        values["entropy_M"] = batch.entropy_M.detach()
    loss = objective(TokenBatch(**values))
    (coefficient_M,) = torch.autograd.grad(loss.value, leaf)
    return Loss(loss.value.detach(), loss.stats), coefficient_M
