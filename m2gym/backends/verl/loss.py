"""Forge's objective over verl's batch, and forge's advantages under verl's names.

A sample of forge is a completion: a run of 1s in a row's mask. So means over samples are those of
`m2gym.backends.local`, where each completion is a sample of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from m2gym.backends.local.learner import objective_of
from m2gym.backends.train_config import AlgorithmConfig
from m2gym.backends.verl.api import (
    AggregationType,
    Metric,
    no_padding_2_padding,
    register_adv_est,
    register_policy_loss,
    tensordict_utils,
)
from m2gym.forge.advantages import group_advantages
from m2gym.forge.objectives import TokenBatch

SAMPLES = "m2gym_samples"
"""Name in a batch: completions of the whole batch."""


def runs(mask_B_T: torch.Tensor) -> torch.Tensor:
    """Number of its run for every place with mask 1, counted over all rows from 0.

    >>> runs(torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]])).tolist()
    [0, 0, 1, 2]
    """
    mask = mask_B_T.bool()
    before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    number = (mask & ~before).flatten().cumsum(0) - 1
    return number[mask.flatten()]


def forge_loss(
    algorithm: dict[str, Any], model_output: Any, data: Any, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's loss function with ``algorithm`` (an `AlgorithmConfig` as plain data) bound to it.

    Micro-batches and workers sum to the loss of the whole batch.
    """
    logprobs_B_T = no_padding_2_padding(model_output["log_probs"], data)
    entropy_B_T = model_output.get("entropy", None)
    if entropy_B_T is not None:
        entropy_B_T = no_padding_2_padding(entropy_B_T, data)
    tokens, workers = int(data["batch_num_tokens"]), int(data["dp_size"])
    samples = tensordict_utils.get_non_tensor_data(data, SAMPLES, None)
    names = ["response_mask", "old_log_probs", "advantages"]
    if "ref_log_prob" in data:
        names.append("ref_log_prob")
    padded = data.select(*names).to_padded_tensor()
    mask_B_T = padded["response_mask"].bool()
    if not mask_B_T.any():
        return logprobs_B_T.sum() * 0.0, {}

    def flat(values_B_T: torch.Tensor | None) -> torch.Tensor | None:
        return None if values_B_T is None else values_B_T[mask_B_T].to(logprobs_B_T.dtype)

    logprobs_M, old_M = logprobs_B_T[mask_B_T], padded["old_log_probs"][mask_B_T]
    entropy_M = flat(entropy_B_T)
    loss = objective_of(AlgorithmConfig(**algorithm))(
        TokenBatch(
            logprobs_M=logprobs_M,
            old_logprobs_M=old_M.to(logprobs_M.dtype),
            advantage_M=padded["advantages"][mask_B_T].to(logprobs_M.dtype),
            sample_M=runs(mask_B_T),
            entropy_M=entropy_M,
            reference_M=flat(padded.get("ref_log_prob", None)),
            total_tokens=tokens,
            total_samples=samples,
        )
    )
    share = len(logprobs_M) / tokens
    difference_M = (logprobs_M.detach() - old_M).abs()
    stats = {k: v for k, v in loss.stats.items() if k not in ("tokens", "masked", "ratio_max")}
    sums = {name: value * share for name, value in stats.items()}
    sums["loss"] = float(loss.value.detach())
    sums["engine_difference_mean"] = float(difference_M.sum()) / tokens
    if entropy_M is not None:
        sums["entropy"] = float(entropy_M.detach().sum()) / tokens
    found = {f"m2gym/{n}": Metric(AggregationType.SUM, v) for n, v in sums.items()}
    largest = {
        "ratio_max": loss.stats["ratio_max"],
        "engine_difference_max": float(difference_M.max()),
    }
    found |= {f"m2gym/{n}": Metric(AggregationType.MAX, v) for n, v in largest.items()}
    return loss.value * workers, found


@register_policy_loss("m2gym")
def policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Forge's CISPO as a ``policy_loss.loss_mode`` of verl's own trainers; the upper clip is
    ``clip_ratio_high``. This backend's trainer uses `forge_loss`, whose objective has stages."""
    mask_B_T = response_mask.bool()
    own = AlgorithmConfig(epsilon_high=float(config.clip_ratio_high))
    about = config.global_batch_info
    loss = objective_of(own)(
        TokenBatch(
            logprobs_M=log_prob[mask_B_T],
            old_logprobs_M=old_log_prob[mask_B_T],
            advantage_M=advantages[mask_B_T],
            sample_M=runs(mask_B_T),
            weight_M=None if rollout_is_weights is None else rollout_is_weights[mask_B_T],
            total_tokens=about.get("batch_num_tokens"),
        )
    )
    stats = {f"actor/{name}": value for name, value in loss.stats.items()}
    return loss.value * about.get("dp_size", 1), stats


@register_adv_est("m2gym")
def advantages(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray[Any, Any],
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forge's group-normalised advantages, each row a member: for agents of one row an episode.
    This backend's trainer counts an episode once, however many rows it has."""
    rewards = token_level_rewards.sum(-1).tolist()
    found = group_advantages(rewards, list(index))
    value_S = torch.as_tensor(found.value_S, dtype=token_level_rewards.dtype)
    value_B_T = value_S[:, None] * response_mask
    return value_B_T, value_B_T
