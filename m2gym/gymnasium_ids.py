"""Our environments under Gymnasium's own ids: ``swe-repo`` is ``m2gym/swe-repo-v0``."""

from __future__ import annotations

import gymnasium

from m2gym.core.registry import ENVS


def gymnasium_id(id: str) -> str:
    """The id under which Gymnasium knows an environment."""
    return f"m2gym/{id}-v0"


def register(id: str) -> None:
    """Tell Gymnasium of an environment; a second time does nothing."""
    if gymnasium_id(id) not in gymnasium.registry:
        gymnasium.register(
            gymnasium_id(id),
            entry_point="m2gym.envs.catalog:make_env",
            kwargs={"env_id": id},
            disable_env_checker=True,
            order_enforce=False,
        )


def register_all() -> None:
    """Tell Gymnasium of every environment registered so far, and of those packages offer."""
    for id in ENVS.names():
        register(id)
