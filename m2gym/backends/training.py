"""``m2gym.train``: a configuration to the backend that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from m2gym.backends.train_config import TrainConfig
from m2gym.core.errors import InputError
from m2gym.core.registry import BACKENDS

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
    backend = BACKENDS.get(config.backend.id)()
    if not hasattr(backend, "train"):
        able = [name for name in BACKENDS.names() if name in ("local", "verl")]
        raise InputError(f"backend {config.backend.id!r} does not train; one that does: {able}")
    result: TrainResult = backend.train(config, resume=resume, told=told)
    return result
