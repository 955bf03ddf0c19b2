"""The trainer that verl runs: its own steps, with forge's window, advantages, objective and stages.

::

    submit items ─► window ─► batch ─► advantages ─► update ─► weights to the server ─► row
      (stage and temperature go with each item; rate and resets with each batch)
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m2gym.backends.local.behaviour import behaviour, success
from m2gym.backends.local.metrics import EqualTasks, MetricsFile, anomalies
from m2gym.backends.local.optimiser import rate
from m2gym.backends.stages import Stages
from m2gym.backends.train_config import TrainConfig
from m2gym.backends.verl.api import (
    NonTensorData,
    PPOTrainer,
    TensorDict,
    marked_timer,
    ray,
    reduce_metrics,
    register_trainer,
    response_to_nested,
    tq,
)
from m2gym.backends.verl.checkpoint import load_own, save_own
from m2gym.backends.verl.engine import RATE, RESET
from m2gym.backends.verl.loss import SAMPLES, forge_loss, runs
from m2gym.backends.verl.rows import Session, row_of, sessions_of
from m2gym.core.errors import InfraError
from m2gym.forge.advantages import group_advantages


@register_trainer("m2gym")
class ForgeTrainer(PPOTrainer):
    """See the module. Generation may run ahead of training (``schedule.lag``): servers only pause
    while weights change, and what runs goes on under the new ones, each token with its version."""

    def __init__(self, config: Any) -> None:
        from m2gym.backends.verl.plugin import check_registered

        check_registered()
        self.own = TrainConfig(**json.loads(config.m2gym.config))
        self.out = Path(config.m2gym.out)
        self.stages = Stages(self.own)
        self.reset, self.busy = False, 0.0
        self.equal = EqualTasks()
        self.sessions: list[Session] = []
        self.rows: list[dict[str, Any]] = []
        super().__init__(config)
        self.metrics_file = MetricsFile(self.out / "metrics.jsonl")

    # -- checkpoints ---------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        state = {
            "stages": self.stages.state(),
            "reset": self.reset,
            "equal": self.equal.times,
            "dropped": self.replay_buffer.dropped,
            "faults": self.replay_buffer.faults,
        }
        save_own(self.out, self.global_steps, state)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        self.rows = self.metrics_file.rows()
        if self.global_steps:
            state = load_own(self.out, self.global_steps)
            self.stages.load(state["stages"])
            self.reset, self.equal.times = state["reset"], dict(state["equal"])
            self.replay_buffer.dropped = state["dropped"]
            self.replay_buffer.faults.update(state["faults"])
            self.replay_buffer.forget()

    # -- verl's hooks --------------------------------------------------------------------------

    def on_init_end(self) -> None:
        self._begin_stage()
        self.checkpoint_manager.update_weights(self.global_steps)
        self._save_model_at_end()

    def on_sample_end(self) -> None:
        self.checkpoint_manager.sleep_replicas()

    def on_step_end(self) -> None:
        self.replay_buffer.release()
        with marked_timer("update_weights", self.timing_raw, color="red"):
            self.checkpoint_manager.update_weights(self.global_steps)
        self._save_model_at_end()

    def _save_model_at_end(self) -> None:
        """Also of a run that is resumed after its last step."""
        if self.global_steps >= self.total_training_steps:
            server = self.llm_server_manager.server_handles[0]
            ray.get(server.save.remote(str(self.out / "model")))

    def prepare_step(self) -> dict[str, Any]:
        """Ask for as many items as there is room for."""
        if self.replay_buffer.fifo.room:
            self._add_prompts_to_generate(self.replay_buffer.fifo.room)
        return {}

    def _submit_batch_to_rollout(self, batch: Any) -> int:
        batch["stage"] = NonTensorData(self.stages.index)
        batch["temperature"] = NonTensorData(self.stages.settings.temperature)
        for uid in batch["uid"]:
            self.replay_buffer.admit(str(uid))
        return int(super()._submit_batch_to_rollout(batch))

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        """Rows need no more than a share for each worker: an update takes them all."""
        return dp_size

    # -- what is forge's -----------------------------------------------------------------------

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """One advantage an episode, from all its group's graded episodes; its rows share it."""
        found = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["response_mask", "rm_scores", "extra_fields", "task"],
        )
        mask = found["response_mask"]
        self.sessions = sessions_of(batch.keys, batch.tags, found)
        graded = [s for s in self.sessions if not s.masked]
        if not graded:
            raise InfraError("no episode of the batch was graded, though the window took it")
        algorithm = self.stages.algorithm
        value_S = group_advantages(
            [s.reward for s in graded],
            [s.group for s in graded],
            kind=algorithm.advantage,
            fraction=algorithm.fraction,
        )
        self.advantages = value_S
        by_session = {s.key: v for s, v in zip(graded, value_S.value_S.tolist(), strict=True)}
        value_B = [by_session.get(key.rsplit("_", 1)[0], 0.0) for key in batch.keys]
        padded_B_T = mask.to_padded_tensor(0).float()
        self.samples = int(runs(padded_B_T).max()) + 1
        value_B_T = torch.tensor(value_B)[:, None] * padded_B_T
        nested = response_to_nested(value_B_T, mask)
        fields = TensorDict({"advantages": nested, "returns": nested}, batch_size=len(batch))
        self.learns = bool(np.any(value_S.value_S)) or bool(algorithm.kl or algorithm.entropy)
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """One optimiser step on all rows; none where no row has anything to teach."""
        lr = rate(self.stages.settings, self.global_steps - 1, self.stages.begun)
        metrics["m2gym/lr"] = lr
        if not self.learns:
            metrics["actor/grad_norm"] = 0.0
            return batch
        batch.extra_info.update(
            {
                "calculate_entropy": True,
                "distillation_use_topk": False,
                "distillation_only": False,
                "global_batch_size": len(batch),
                "mini_batch_size": len(batch),
                "epochs": 1,
                "seed": self.own.train.seed,
                "dataloader_kwargs": {"shuffle": False},
                "temperature": self.stages.settings.temperature,
                RATE: lr,
                RESET: self.reset,
                SAMPLES: self.samples,
            }
        )
        self.reset = False
        found = self.actor_rollout_wg.update_actor(batch)["metrics"]
        prefixed = {k if k.startswith("m2gym/") else f"actor/{k}": v for k, v in found.items()}
        metrics.update(reduce_metrics(prefixed))
        return batch

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        server = self.llm_server_manager.server_handles[0]
        busy = float(ray.get(server.seconds.remote()))
        row = row_of(
            self.sessions,
            self.advantages,
            metrics,
            self.timing_raw,
            step=self.global_steps,
            engine_seconds=busy - self.busy,
            dropped=self.replay_buffer.dropped,
            faults=self.replay_buffer.faults,
        )
        self.busy = busy
        row["stage"] = self.stages.index + 1
        groups = {s.group: s.task for s in self.sessions}
        for group, task in groups.items():
            rewards = [s.reward for s in self.sessions if s.group == group and not s.masked]
            told = self.equal.add(task, rewards) if rewards else None
            if told is not None:
                row["equal"][task] = told
        episodes = [[s.episode()] for s in self.sessions if not s.masked]
        row |= behaviour(episodes)
        self._next_stage(success(episodes), row)
        row["anomalies"] = anomalies(row, self.rows)
        self.rows.append(row)
        self.metrics_file.append(row)
        # After the row, not where verl would: only now is the step's stage known.
        last = self.global_steps >= self.total_training_steps
        if last or self.global_steps % self.own.train.save_every == 0:
            self._save_checkpoint()

    def _next_stage(self, rate_of_success: float, row: dict[str, Any]) -> None:
        moved = self.stages.step(rate_of_success)
        if moved is None:
            return
        row["stage_ended"] = moved.reason
        if moved.reset_optimizer:
            self.reset = True
            self.stages.begun = self.global_steps
        self._begin_stage()

    def _begin_stage(self) -> None:
        """The objective and the temperature of the current stage, where verl looks for them."""
        algorithm = self.stages.algorithm.model_dump(mode="json")
        self.actor_rollout_wg.set_loss_fn(partial(forge_loss, algorithm))
        self.config.actor_rollout_ref.rollout.temperature = self.stages.settings.temperature
