"""Where the episodes of a run are executed, by name: ``local``, ``ray`` or ``ray:ADDRESS``."""

from __future__ import annotations

from m2gym.core.errors import InputError
from m2gym.core.protocols import Model, Scaffold
from m2gym.rollout.pool import Executor, LocalExecutor
from m2gym.rollout.run_info import RunConfig


def make_executor(
    name: str, config: RunConfig, agent: str | Scaffold, model: str | Model | None
) -> Executor:
    """The executor of a run.

    Raises:
        InputError: there is none of that name; or it cannot run this agent or model elsewhere.
    """
    kind, _, address = name.partition(":")
    if name == "local":
        return LocalExecutor()
    if kind == "ray":
        from m2gym.rollout.ray_executor import RayExecutor

        return RayExecutor(config, agent, model, address=address or None)
    raise InputError(f"an executor is 'local', 'ray' or 'ray:ADDRESS', got {name!r}")
