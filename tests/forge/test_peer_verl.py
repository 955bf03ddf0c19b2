"""Losses and advantages against verl's own (0.9.1), value and gradient: ``make test-peers``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from m2gym.forge.advantages import group_advantages
from m2gym.forge.objectives import Cispo, Gspo, Objective, PpoClip, dapo, kl_low_variance
from tests.forge.peer_batches import Padded, draw, flat

pytestmark = pytest.mark.peers
core: Any = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed here")


def actor(low: float, high: float) -> Any:
    from verl.workers.config import ActorConfig

    # Dual clip far away: neither paper has it.
    return ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=low,
        clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=1e9,
    )  # fmt: skip


def theirs(padded: Padded, name: str, mean: str, low: float, high: float) -> torch.Tensor:
    value: torch.Tensor = core.get_policy_loss_fn(name)(
        padded.old, padded.logprobs, padded.advantage, padded.mask.to(padded.old.dtype), mean,
        actor(low, high),
    )[0]  # fmt: skip
    return value


CASES: dict[str, tuple[Objective, tuple[str, str, float, float], float]] = {
    "CISPO": (Cispo(3.0), ("cispo", "token-mean", 1.0, 3.0), 1.5),
    "CISPO that clips often": (Cispo(0.2), ("cispo", "token-mean", 1.0, 0.2), 0.6),
    "GRPO": (PpoClip(), ("vanilla", "seq-mean-token-mean", 0.2, 0.2), 0.6),
    "DAPO": (dapo(), ("vanilla", "token-mean", 0.2, 0.28), 0.6),
    "GSPO": (Gspo(), ("gspo", "seq-mean-token-mean", 3e-4, 4e-4), 3e-4),
    "GSPO, wide": (Gspo(0.2, 0.3), ("gspo", "seq-mean-token-mean", 0.2, 0.3), 0.6),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_and_gradients(case: tuple[Objective, Any, float], seed: int) -> None:
    ours, arguments, spread = case
    padded = draw(seed, spread)
    want = theirs(padded, *arguments)
    (right,) = torch.autograd.grad(want, padded.logprobs)
    got = ours(flat(padded)).value
    (mine,) = torch.autograd.grad(got, padded.logprobs)
    # verl divides by the number of tokens + 1e-8.
    assert got.item() == pytest.approx(want.item(), rel=1e-7)
    torch.testing.assert_close(mine, right, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_low_variance_kl(seed: int) -> None:
    padded = draw(seed)
    want = core.kl_penalty_forward(padded.logprobs, padded.reference, "low_var_kl")
    torch.testing.assert_close(kl_low_variance(padded.logprobs, padded.reference), want)


ESTIMATORS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "GRPO": ({"kind": "normalised"}, lambda *a: core.compute_grpo_outcome_advantage(*a)),
    "Dr. GRPO": (
        {"kind": "centred"},
        lambda *a: core.compute_grpo_outcome_advantage(*a, norm_adv_by_std_in_grpo=False),
    ),
    "RLOO": ({"kind": "leave_one_out"}, lambda *a: core.compute_rloo_outcome_advantage(*a)),
}


@pytest.mark.parametrize("case", ESTIMATORS.values(), ids=ESTIMATORS)
def test_advantages(case: tuple[dict[str, Any], Callable[..., Any]]) -> None:
    settings, peer = case
    rewards = [1.0, 0.0, 0.25, 2.0, 2.0, -1.0, 0.5]
    groups = [0, 0, 0, 1, 1, 1, 1]
    scores = torch.zeros(7, 2, dtype=torch.float64)
    scores[:, 1] = torch.tensor(rewards, dtype=torch.float64)
    want = peer(scores, torch.ones(7, 2, dtype=torch.float64), np.array(groups))[0][:, 0]
    got = group_advantages(rewards, groups, **settings).value_S
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-6, atol=1e-9)
