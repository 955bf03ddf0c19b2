"""``m2gym.train``: a configuration to the backend that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from m2gym.backends.train_config import TrainConfig
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.registry import BACKENDS, SCAFFOLDS, WORKSPACES
from m2gym.envs.catalog import env_entry
from m2gym.scaffolds.agents import make_scaffold

if TYPE_CHECKING:
    from m2gym.backends.local.trainer import TrainResult


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainResult:
    """Train a model in an environment.

    Args:
        config: what, with what, how; see `TrainConfig`.
        resume: go on with the run in ``config.out``.
        told: called with each step's row of metrics.

    Raises:
        InputError: an unknown id, a wrong setting, a folder that holds another run.
        InfraError: no episode could be graded, a damaged checkpoint.
    """
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"expected a TrainConfig, got {type(config).__name__}; TrainConfig.load(PATH) reads a "
            "file, TrainConfig(env=…, model=…) takes values"
        )
    check(config)
    backend = BACKENDS.get(config.backend.id)()
    result: TrainResult = backend.train(config, resume=resume, told=told)
    return result


def check(config: TrainConfig) -> None:
    """That all the configuration names is there, before a model is loaded.

    Raises:
        InputError: an unknown backend, environment, workspace or agent, a setting that the agent
            lacks, a backend that does not train, an agent that calls no model.
    """
    if not hasattr(BACKENDS.get(config.backend.id), "train"):
        able = [name for name in BACKENDS.names() if name in ("local", "verl")]
        raise InputError(f"backend {config.backend.id!r} does not train; one that does: {able}")
    env_entry(config.env.id)
    boxes = ["auto", *WORKSPACES.names()]
    if config.env.workspace not in boxes:
        raise UnknownIdError("workspace", config.env.workspace, boxes)
    if getattr(SCAFFOLDS.get(config.agent.id), "uses_model", None) is False:
        raise InputError(
            f"agent {config.agent.id!r} calls no model, so it has nothing to train; "
            "m2gym list scaffolds shows the others"
        )
    for own in ({}, *(stage.agent for stage in config.stages)):
        make_scaffold(config.agent.id, {**config.agent.settings, **own})
