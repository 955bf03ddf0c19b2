"""What verl loads in each of its processes (``VERL_USE_EXTERNAL_MODULES``): our registrations.

verl swallows a plugin that raises, so whoever starts asserts `check_registered`.
"""

from __future__ import annotations

import importlib
import importlib.util

from m2gym.backends.verl.api import (
    _ROLLOUT_REGISTRY,
    ADV_ESTIMATOR_REGISTRY,
    POLICY_LOSS_REGISTRY,
    CpuPlatform,
    EngineRegistry,
    PlatformRegistry,
    RolloutReplica,
    RolloutReplicaRegistry,
    _agent_loop_registry,
    trainer_base,
)
from m2gym.backends.verl.cpu import gloo_once
from m2gym.backends.verl.plan import NAME
from m2gym.core.errors import InfraError


def register_all() -> None:
    """Engine, rollout, agent loop, trainer, objective and advantages, in this process; the platform
    is registered where verl is first imported, in `m2gym.backends.verl.api`. Where triton is, also
    our kernels, which ``override_config._experts_implementation: m2_triton`` names."""
    gloo_once()
    # These register themselves as they are imported.
    import m2gym.backends.verl.agent_loop
    import m2gym.backends.verl.engine
    import m2gym.backends.verl.loss
    import m2gym.backends.verl.trainer  # noqa: F401

    RolloutReplicaRegistry.register(NAME, _replica)
    _ROLLOUT_REGISTRY[(NAME, "async")] = "m2gym.backends.verl.rollout.ServerAdapter"
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("m2gym.kernels.register").register()


def check_registered() -> None:
    """Raise `InfraError` that names what is not registered with verl in this process."""
    engines = EngineRegistry._engines.get("language_model", {}).get("fsdp2", {})
    wanted = {
        "platform": PlatformRegistry.get("cpu") is CpuPlatform,
        "engine": "cpu" in engines,
        "rollout": (NAME, "async") in _ROLLOUT_REGISTRY,
        "replica": NAME in RolloutReplicaRegistry._registry,
        "agent loop": NAME in _agent_loop_registry,
        "trainer": NAME in trainer_base.TRAINER_REGISTRY,
        "objective": NAME in POLICY_LOSS_REGISTRY,
        "advantages": NAME in ADV_ESTIMATOR_REGISTRY,
    }
    lost = [what for what, there in wanted.items() if not there]
    if lost:
        raise InfraError(
            f"verl does not know our {', '.join(lost)}: its plugin was not loaded; see that "
            "VERL_USE_EXTERNAL_MODULES names m2gym.backends.verl.plugin"
        )


def _replica() -> type[RolloutReplica]:
    from m2gym.backends.verl.rollout import Replica

    return Replica


register_all()
