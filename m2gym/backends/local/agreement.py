"""Trainer against engine at updates whose batch has no token of the present weights.

That is so while generation runs ahead, and where every group is equal and nothing is computed. Then
the engine goes on from the beginning of a prompt of the batch with a few tokens, and the trainer
scores them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.learner import Learner
from m2gym.core.protocols import Sampling
from m2gym.forge.records import PoolTrajectory
from m2gym.forge.tree import Sample

PROMPT, TOKENS = 128, 4
"""Most tokens of the prompt, and tokens that are compared: the project's choice."""


async def agreement(
    engine: LocalEngine, learner: Learner, groups: Sequence[Sequence[PoolTrajectory]], seed: int
) -> dict[str, float]:
    """``engine_difference_mean`` and ``_max``, in nats a token, of the engine's answer to the
    beginning of a prompt of ``groups``; nothing where there is none."""
    prompts = [c.prompt_ids for group in groups for e in group for c in e.completions]
    if not prompts:
        return {}
    prompt = prompts[0][:PROMPT].astype(np.int64)
    how = Sampling(temperature=learner.temperature, max_tokens=TOKENS, seed=seed)
    said = await engine.generate(prompt.tolist(), how, session_id="agreement")
    ids, logprobs = np.array(said.ids, np.int64), np.array(said.logprobs)
    with torch.no_grad():
        targets, scores = learner.scores([Sample.of(prompt, ids, logprobs)])
    difference_M = np.abs(scores.logprobs_M.cpu().numpy() - targets.old_logprobs_M)
    return {
        "engine_difference_mean": float(difference_M.mean()),
        "engine_difference_max": float(difference_M.max()),
    }
