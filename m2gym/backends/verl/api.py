"""Every import from verl and what it stands on, once: verl renames things in each minor release.

Importing this module asks for the exact version, see `m2gym.backends.verl.versions`.
"""

from __future__ import annotations

from m2gym.backends.verl.cpu import CpuDevice
from m2gym.backends.verl.versions import require_verl

require_verl()

from verl.plugin.platform.platform_base import PlatformBase  # noqa: E402
from verl.plugin.platform.platform_manager import PlatformRegistry  # noqa: E402


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(CpuDevice, PlatformBase):
    """The processor as verl's platform; the imports below look for it."""


import ray  # noqa: E402
import transfer_queue as tq  # noqa: E402
from omegaconf import DictConfig, OmegaConf, open_dict  # noqa: E402
from tensordict import NonTensorData, TensorDict  # noqa: E402
from verl.experimental.agent_loop.agent_loop import (  # noqa: E402
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
    _agent_loop_registry,
    register,
)
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env  # noqa: E402
from verl.trainer.main_ppo import TaskRunnerV1  # noqa: E402
from verl.trainer.ppo.core_algos import (  # noqa: E402
    ADV_ESTIMATOR_REGISTRY,
    POLICY_LOSS_REGISTRY,
    register_adv_est,
    register_policy_loss,
)
from verl.trainer.ppo.utils import need_reference_policy  # noqa: E402
from verl.trainer.ppo.v1 import trainer_base  # noqa: E402
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer  # noqa: E402
from verl.utils import tensordict_utils  # noqa: E402
from verl.utils.config import validate_config  # noqa: E402
from verl.utils.debug import marked_timer  # noqa: E402
from verl.utils.metric import AggregationType, Metric, reduce_metrics  # noqa: E402
from verl.workers.engine import EngineRegistry  # noqa: E402
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead  # noqa: E402
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout  # noqa: E402
from verl.workers.rollout.replica import (  # noqa: E402
    RolloutReplica,
    RolloutReplicaRegistry,
    TokenOutput,
)
from verl.workers.utils.padding import no_padding_2_padding, response_to_nested  # noqa: E402

__all__ = [
    "ADV_ESTIMATOR_REGISTRY",
    "POLICY_LOSS_REGISTRY",
    "_ROLLOUT_REGISTRY",
    "AgentLoopBase",
    "AgentLoopMetrics",
    "AgentLoopOutput",
    "AggregationType",
    "BaseRollout",
    "CpuPlatform",
    "DictConfig",
    "EngineRegistry",
    "FSDPEngineWithLMHead",
    "Metric",
    "NonTensorData",
    "OmegaConf",
    "PPOTrainer",
    "PlatformRegistry",
    "ReplayBuffer",
    "RolloutReplica",
    "RolloutReplicaRegistry",
    "TaskRunnerV1",
    "TensorDict",
    "TokenOutput",
    "_agent_loop_registry",
    "get_ppo_ray_runtime_env",
    "marked_timer",
    "need_reference_policy",
    "no_padding_2_padding",
    "open_dict",
    "ray",
    "reduce_metrics",
    "register",
    "register_adv_est",
    "register_policy_loss",
    "register_trainer",
    "response_to_nested",
    "tensordict_utils",
    "tq",
    "trainer_base",
    "validate_config",
]
