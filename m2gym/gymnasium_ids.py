"""Our environments under Gymnasium's own ids: ``swe-repo`` is ``m2gym/swe-repo-v0``.

Gymnasium calls `register_all` when it is imported (entry-point group ``gymnasium.envs``), before
its own package is whole; hence the import from its inner module.
"""

from __future__ import annotations

import m2gym._builtin  # noqa: F401
from m2gym.core.registry import ENVS


def gymnasium_id(id: str) -> str:
    """The id under which Gymnasium knows an environment."""
    return f"m2gym/{id}-v0"


def register(id: str) -> None:
    """Tell Gymnasium of an environment; a second time does nothing."""
    from gymnasium.envs import registration

    if gymnasium_id(id) not in registration.registry:
        registration.register(
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
