"""One batch in `local` and in verl's engine: the same loss, the same gradients."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backends.verl.needs import config, verl_here

pytestmark = pytest.mark.verl

LOSS, GRADIENTS = 1e-4, 1e-4
"""Bounds in fp32, absolute and relative: sums in another order, over terms of order ten (the tokens
are random), that nearly cancel."""


def episodes(rng: np.random.Generator) -> list[list[Any]]:
    """Two groups of three: two turns, a fork, and an answer of one turn."""
    from m2gym.forge.records import PoolCompletion, PoolTrajectory

    def completion(prompt: list[int]) -> PoolCompletion:
        answer = rng.integers(5, 900, int(rng.integers(3, 12)))
        return PoolCompletion(
            np.array(prompt, np.int32),
            answer.astype(np.int32),
            np.zeros(len(answer), np.float32),
            np.zeros(len(answer), np.int32),
        )

    def after(last: PoolCompletion) -> list[int]:
        more = rng.integers(5, 900, 4).tolist()
        return [*last.prompt_ids.tolist(), *last.response_ids.tolist(), *more]

    groups = []
    for group in range(2):
        prompt = rng.integers(5, 900, 20 + group).tolist()
        members = []
        for member, reward in enumerate([1.0, 0.0, 0.25]):
            done = [completion(prompt)]
            done += [completion(after(done[0])) for _ in range(2 - member)]
            key = f"{group}/{member}"
            members.append(PoolTrajectory(key, tuple(done), reward, group=str(group), task="t"))
        groups.append(members)
    return groups


def recorded(groups: list[list[Any]], learner: Any, rng: np.random.Generator) -> list[list[Any]]:
    """The same with old logprobs near the model's own, so that some ratios are clipped."""
    from dataclasses import replace

    from m2gym.backends.local.learner import graded

    samples = graded(groups, learner.config).samples
    out, at = [], 0
    import torch

    for group in groups:
        members = []
        for episode in group:
            done = []
            for one in episode.completions:
                with torch.no_grad():
                    _, scores = learner.scores([samples[at]])
                own = scores.logprobs_M.numpy() + rng.normal(0, 0.3, len(one.response_ids))
                done.append(replace(one, logprobs_T=own.astype(np.float32)))
                at += 1
            members.append(replace(episode, completions=tuple(done)))
        out.append(members)
    return out


@pytest.mark.parametrize("objective", ["cispo", "grpo", "dapo", "gspo"])
def test_loss_and_gradients_are_those_of_local(objective: str, tmp_path: Path) -> None:
    verl_here()
    import torch

    from m2gym.backends.local.hooked import HookedModel, load_causal
    from m2gym.backends.local.learner import Learner, graded
    from m2gym.backends.local.optimiser import MasterAdamW
    from m2gym.models import nano

    cfg = config(tmp_path / "run", algorithm={"id": objective})
    rng = np.random.default_rng(3)
    model = load_causal(str(nano.folder()), dtype=torch.float32)
    learner = Learner(HookedModel(model), cfg.algorithm, MasterAdamW(model, cfg.train))
    groups = recorded(episodes(rng), learner, rng)
    batch = graded(groups, cfg.algorithm)
    tokens = sum(int(s.trained_T.sum()) for s in batch.samples)
    wanted = list(range(len(batch.samples)))
    done = learner._gradients(batch, wanted, tokens, 0, False)
    assert done is not None
    local_loss = done[1].stats()["loss"]
    local = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    verl_loss, verl = by_verl(cfg, groups)
    assert set(local) == set(verl)
    whole = sum(float(g.double().pow(2).sum()) for g in local.values()) ** 0.5
    apart = sum(float((local[n] - verl[n]).double().pow(2).sum()) for n in local) ** 0.5
    told = abs(verl_loss - local_loss)
    print(f"{objective}: loss {told:.2e}, gradients {apart / whole:.2e}")
    assert told <= LOSS
    assert apart <= GRADIENTS * whole


def by_verl(cfg: Any, groups: list[list[Any]]) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of verl's engine with our loss, on rows as the agent loop makes them."""
    import torch
    from verl.utils.config import omega_conf_to_dataclass
    from verl.utils.tensordict_utils import assign_non_tensor, list_of_dict_to_tensordict

    from m2gym.backends.verl.agent_loop import outputs
    from m2gym.backends.verl.api import EngineRegistry
    from m2gym.backends.verl.backend import VerlBackend
    from m2gym.backends.verl.loss import SAMPLES, forge_loss
    from m2gym.forge.advantages import group_advantages

    tree = VerlBackend().dry_run(cfg)
    members = [episode for group in groups for episode in group]
    found = group_advantages([e.reward for e in members], [e.group for e in members])
    rows = []
    for episode, advantage in zip(members, found.value_S.tolist(), strict=True):
        for output in outputs(episode, 2048, 0):
            row = output.as_dict()
            mask = row["response_mask"]
            rows.append(
                {
                    "prompts": row["prompts"],
                    "responses": row["responses"],
                    "input_ids": torch.cat([row["prompts"], row["responses"]]),
                    "position_ids": torch.arange(len(row["prompts"]) + len(row["responses"])),
                    "response_mask": mask,
                    "loss_mask": mask,
                    "old_log_probs": row["rollout_log_probs"],
                    "advantages": advantage * mask.float(),
                }
            )
    data = list_of_dict_to_tensordict(rows)
    assign_non_tensor(
        data,
        use_remove_padding=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=256,
        use_fused_kernels=False,
        temperature=1.0,
        calculate_entropy=True,
        distillation_use_topk=False,
        global_batch_size=len(rows),
        **{SAMPLES: sum(len(e.completions) for e in members)},
    )
    started = not torch.distributed.is_initialized()
    if started:
        alone = torch.distributed.HashStore()  # no port that another process may hold
        torch.distributed.init_process_group("cpu:gloo,cpu:gloo", store=alone, rank=0, world_size=1)
    model_config = omega_conf_to_dataclass(tree.actor_rollout_ref.model)
    model_config.model_type = "language_model"
    actor = omega_conf_to_dataclass(tree.actor_rollout_ref.actor)
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model_config,
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    engine.initialize()
    with engine.train_mode():
        engine.optimizer_zero_grad()
        algorithm = cfg.algorithm.model_dump(mode="json")
        out = engine.forward_backward_batch(data, partial(forge_loss, algorithm))
        gradients = {
            name: p.grad.full_tensor().clone()
            for name, p in engine.module.named_parameters()
            if p.grad is not None
        }
    return float(sum(out["loss"])), gradients
