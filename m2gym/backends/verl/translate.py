"""`TrainConfig` → verl's configuration: what each of our fields becomes, and what is refused.

``backend.verl.<any.field>`` sets a field of verl's own over ours; one that verl does not know is an
error that names the nearest.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from m2gym.backends.local.learner import objective_of
from m2gym.backends.stages import Stages
from m2gym.backends.train_config import BackendConfig, Section, TrainConfig, told
from m2gym.backends.verl.checkpoint import FOLDER
from m2gym.backends.verl.plan import NAME
from m2gym.core.errors import InputError
from m2gym.forge.window import window_size

NO_CLIP = 1e30
"""verl wants a bound of the gradient's norm; this one is none."""


class VerlConfig(Section):
    """Settings of the backend ``verl``."""

    micro_tokens: int = Field(8192, ge=1, description="tokens of a micro-batch, padding included")
    rows: int = Field(64, ge=1, description="sequences generated at once")
    kv_tokens: int = Field(262_144, ge=1, description="tokens the rollout engine keeps")
    context: int | None = Field(None, ge=2, description="tokens of prompt and answer")
    format: str | None = Field(None, description="chat format; guessed from the tokenizer")
    agent_workers: int = Field(1, ge=1, description="processes that run agents")
    cpus: int = Field(12, ge=1, description="Ray's logical processors: slots, not cores")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    verbose: bool = Field(False, description="print what verl's processes print")
    verl: dict[str, Any] = Field(default_factory=dict, description="fields of verl's own")


def verl_config(config: BackendConfig) -> VerlConfig:
    """The backend's own fields; `InputError` names the nearest to an unknown one."""
    try:
        return VerlConfig(**config.settings)
    except ValidationError as error:
        raise InputError(told(error, VerlConfig, "backend.")) from None


def refuse(config: TrainConfig) -> None:
    """`InputError` with everything that this backend cannot do, before anything starts."""
    settings, algorithm = config.train, config.algorithm
    stages = Stages(config)
    regularised = [n for n in range(len(stages.parts)) if stages.algorithm_of(n).kl]
    resets = any(part.reset_reference for part in stages.parts[1:])
    unable = {
        "algorithm.process": algorithm.process is not None,
        "algorithm.half_life": algorithm.half_life is not None,
        "algorithm.importance_cap": algorithm.importance_cap is not None,
        "train.eval_every": settings.eval_every is not None,
        "train.stop_at": settings.stop_at is not None,
        "log": bool(config.log),
        "stages with kl and reset_reference": bool(regularised) and resets,
        "stages with kl in some only": bool(regularised) and len(regularised) < len(stages.parts),
    }
    found = [name for name, wanted in unable.items() if wanted]
    if found:
        raise InputError(
            f"backend 'verl' cannot do {', '.join(found)} yet: leave it out, or use backend 'local'"
        )
    for n in range(len(stages.parts)):
        objective_of(stages.algorithm_of(n))


def fields(
    config: TrainConfig, *, folder: str, context: int, tasks: tuple[str, ...] = ()
) -> dict[str, Any]:
    """verl's fields by dotted name, without those of ``backend.verl``.

    Args:
        config: of the run; its ``out`` names the folder. folder: of the model.
        context: tokens of prompt and answer. tasks: that are asked.
    """
    own, settings = verl_config(config.backend), config.train
    schedule = config.algorithm.schedule
    capacity = (schedule.lag + 1) * settings.groups
    stages = Stages(config)
    kl = any(stages.algorithm_of(n).kl for n in range(len(stages.parts)))
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    model = "actor_rollout_ref.model"
    tokens = max(own.micro_tokens, context)
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    return {
        "m2gym": {
            "config": json.dumps(config.model_dump(mode="json")),
            "folder": folder,
            "format": own.format,
            "context": context,
            "out": str(config.out or "run"),
        },
        f"{model}.path": folder,
        f"{model}.use_remove_padding": False,
        f"{model}.enable_gradient_checkpointing": own.checkpointing,
        f"{model}.override_config.attn_implementation": "sdpa",
        f"{actor}.strategy": "fsdp2",
        f"{actor}.optim.lr": settings.lr,
        f"{actor}.optim.betas": list(settings.betas),
        f"{actor}.optim.weight_decay": settings.weight_decay,
        f"{actor}.optim.clip_grad": settings.clip or NO_CLIP,
        f"{actor}.optim.override_optimizer_config": {"eps": settings.eps},
        f"{actor}.ppo_mini_batch_size": settings.groups,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": tokens,
        f"{actor}.policy_loss.loss_mode": NAME,
        f"{actor}.use_kl_loss": kl,
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.strategy": "fsdp2",
        f"{actor}.fsdp_config.model_dtype": "fp32",
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"{actor}.fsdp_config.mixed_precision": precision,
        "actor_rollout_ref.ref.fsdp_config.strategy": "fsdp2",
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.fsdp_config.mixed_precision": precision,
        f"{rollout}.name": NAME,
        f"{rollout}.n": settings.group_size,
        f"{rollout}.temperature": stages.settings.temperature,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.prompt_length": context,
        f"{rollout}.response_length": context,
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.load_format": "auto",
        f"{rollout}.dtype": "float32",
        f"{rollout}.agent.num_workers": own.agent_workers,
        f"{rollout}.agent.default_agent_loop": NAME,
        f"{rollout}.engine_kwargs.m2gym": {
            "rows": own.rows,
            "kv_tokens": own.kv_tokens,
            "context": own.context,
            "format": own.format,
        },
        "algorithm.adv_estimator": "grpo",
        "algorithm.rollout_correction.bypass_mode": True,
        "data.custom_cls.path": "pkg://m2gym.backends.verl.prompts",
        "data.custom_cls.name": "Items",
        "data.m2gym": {"tasks": list(tasks), "seed": settings.seed},
        "data.train_batch_size": settings.groups,
        "data.gen_batch_size": 1,
        "data.shuffle": False,
        "data.dataloader_num_workers": 0,
        "data.max_prompt_length": context,
        "data.max_response_length": context,
        "trainer.v1.trainer_mode": NAME,
        "trainer.v1.sampler.custom_sampler.path": "pkg://m2gym.backends.verl.window_buffer",
        "trainer.v1.sampler.custom_sampler.name": "WindowedBuffer",
        "trainer.v1.sampler.max_off_policy_threshold": None,
        "trainer.v1.sampler.sampler_kwargs": {
            "capacity": capacity,
            "window": window_size(capacity, schedule.window),
            "batch": settings.groups,
        },
        "trainer.total_training_steps": settings.steps,
        "trainer.total_epochs": 1,
        "trainer.n_gpus_per_node": 1,
        "trainer.nnodes": 1,
        "trainer.device": "cpu",
        "trainer.logger": ["file"],
        "trainer.project_name": "m2gym",
        "trainer.experiment_name": Path(config.out or "run").name,
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.save_freq": -1,
        "trainer.resume_mode": "disable",
        "trainer.max_actor_ckpt_to_keep": settings.keep,
        "trainer.default_local_dir": str((config.out or Path("run")) / FOLDER),
        "reward.num_workers": 0,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "ray_kwargs.ray_init.num_cpus": own.cpus,
    }


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted name; names may be dotted already.

    >>> dict(flat({"a": {"b": 1}, "c.d": [2]}))
    {'a.b': 1, 'c.d': [2]}
    """
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value


def known(tree: Mapping[str, Any], name: str) -> str | None:
    """Why verl does not know a field, or ``None``; what lies below an empty part of verl's
    configuration (``override_config``, ``engine_kwargs``) is its own business.

    >>> known({"trainer": {"nnodes": 1}}, "trainer.nodes")
    "verl has no field trainer.nodes; did you mean 'trainer.nnodes'?"
    """
    at: Any = tree
    done: list[str] = []
    for part in name.split("."):
        if isinstance(at, Mapping) and (not at or part in at):
            at = at.get(part, {})
            done.append(part)
            continue
        if at is None:
            return None
        names = sorted(map(str, at)) if isinstance(at, Mapping) else []
        near = difflib.get_close_matches(part, names, n=1, cutoff=0.5)
        where = ".".join([*done, near[0]]) if near else ""
        hint = f"did you mean {where!r}?" if near else f"{'.'.join(done)} has {', '.join(names)}"
        return f"verl has no field {name}; {hint}"
    return None
