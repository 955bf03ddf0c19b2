"""m2gym: Gymnasium environments over executable workspaces for LLM agents, and their training.

>>> import m2gym
>>> "swe-repo" in m2gym.list_envs()
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from m2gym import _builtin, gymnasium_ids
from m2gym.core.registry import ENVS, SCAFFOLDS

if TYPE_CHECKING:
    from m2gym.backends.train_config import TrainConfig
    from m2gym.backends.training import train
    from m2gym.core.task import Limits, RewardSpec, Task
    from m2gym.core.verdict import Score, Verdict
    from m2gym.envs.catalog import make, make_async, make_vec, register
    from m2gym.models.budget import Budget
    from m2gym.rewards import reward
    from m2gym.rollout import evaluate, evaluate_async, load_run
    from m2gym.scaffolds.blackbox.command import CommandAgent

__version__ = "0.1.0.dev0"

_LAZY = {
    "Budget": "m2gym.models.budget",
    "CommandAgent": "m2gym.scaffolds.blackbox.command",
    "Limits": "m2gym.core.task",
    "RewardSpec": "m2gym.core.task",
    "Score": "m2gym.core.verdict",
    "Task": "m2gym.core.task",
    "TrainConfig": "m2gym.backends.train_config",
    "Verdict": "m2gym.core.verdict",
    "evaluate": "m2gym.rollout",
    "evaluate_async": "m2gym.rollout",
    "load_run": "m2gym.rollout",
    "make": "m2gym.envs.catalog",
    "make_async": "m2gym.envs.catalog",
    "make_vec": "m2gym.envs.catalog",
    "register": "m2gym.envs.catalog",
    "reward": "m2gym.rewards",
    "train": "m2gym.backends.training",
}

__all__ = [
    "Budget",
    "CommandAgent",
    "Limits",
    "RewardSpec",
    "Score",
    "Task",
    "TrainConfig",
    "Verdict",
    "evaluate",
    "evaluate_async",
    "list_envs",
    "load_run",
    "make",
    "make_async",
    "make_vec",
    "register",
    "reward",
    "scaffold",
    "train",
]

scaffold = SCAFFOLDS.decorator
"""Register a scaffold class: ``@m2gym.scaffold("my-agent")``."""


def list_envs() -> list[str]:
    """Ids of all registered environments."""
    return ENVS.names()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'm2gym' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


_builtin.register_all()
gymnasium_ids.register_all()
