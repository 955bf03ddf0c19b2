"""verl's FSDP engine on the processor; rate and resets of a stage come with each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from m2gym.backends.verl.api import EngineRegistry, FSDPEngineWithLMHead, tensordict_utils

RATE, RESET = "m2gym_lr", "m2gym_reset"
"""Names in a batch: this update's rate, and whether the optimiser begins anew before it."""


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuEngine(FSDPEngineWithLMHead):
    """As verl's, for device ``cpu``."""

    def train_batch(self, data: Any, loss_function: Callable[..., Any]) -> Any:
        rate = tensordict_utils.get_non_tensor_data(data, RATE, None)
        if tensordict_utils.get_non_tensor_data(data, RESET, False):
            self.optimizer.state.clear()
        if rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        return super().train_batch(data, loss_function)

    def lr_scheduler_step(self) -> float:
        """The rate is set by each batch; verl's own schedule is left alone."""
        return float(self.optimizer.param_groups[0]["lr"])
