"""Episodes of ``tool-worlds`` in this process: nothing is executed, so no box is needed.

An episode is one completion: the call, judged by what the world answers to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from m2gym.backends.train_config import TrainConfig
from m2gym.core.errors import InputError
from m2gym.core.protocols import Engine, Sampling
from m2gym.core.task import Taskset
from m2gym.forge.records import PoolCompletion, PoolTrajectory
from m2gym.models.chat_format import TurnFormat
from m2gym.models.minimax_m2 import THOUGHT
from m2gym.scaffolds.shots import Shots
from m2gym.tasksets.tool_worlds.taskset import call_reward, questions_of


@dataclass
class WorldRollouts:
    """See the module.

    Attributes:
        taskset: of ``tool-worlds``. format: M2's.
        shots: examples in the prompt by stage; several numbers in one stage are mixed between
            tasks.
    """

    taskset: Taskset
    format: TurnFormat
    tasks: Sequence[str]
    held_out: Sequence[str]
    shots: Sequence[int | Sequence[int]] = (0,)
    stage: int = field(default=0, init=False)
    known: dict[tuple[str, int], list[int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not self.shots:
            raise InputError("expected the examples of at least one stage, got none")
        self.questions = questions_of(self.taskset.task(self.tasks[0]))
        self.world = self.questions.world()

    def at_stage(self, index: int) -> None:
        """Episodes from now on are of that stage."""
        self.stage = index

    def prompt(self, task: str, shots: int) -> list[int]:
        """Ids of a task's prompt."""
        key = task, shots
        if key not in self.known:
            messages = self.questions.messages(self.world, _number(task), shots)
            self.known[key] = self.format.render(messages)
        return self.known[key]

    def text(self, ids: Sequence[int]) -> str:
        """What an answer says after its thinking."""
        kept = [id for id in ids if id != self.format.end_id]
        return self.format.tokenizer.decode(kept).partition(THOUGHT)[2].strip("\n")

    def judged(self, task: str, ids: Sequence[int]) -> tuple[float, float]:
        """Reward and success of an answer."""
        asked = self.questions.episode(self.world, _number(task))
        return call_reward(self.world, asked, self.text(ids))

    async def episode(
        self, engine: Engine, task: str, key: str, sampling: Sampling
    ) -> PoolTrajectory:
        mine = self.shots[min(self.stage, len(self.shots) - 1)]
        held = _number(task) in self._held()
        shots = 0 if held else mine if isinstance(mine, int) else mine[_number(task) % len(mine)]
        prompt = self.prompt(task, shots)
        out = await engine.generate(prompt, sampling, session_id=key)
        reward, right = self.judged(task, out.ids)
        extra = {"accuracy": repr(right), "turns": "1", "calls": "1", "finished": "0"}
        if shots:
            extra["zero_prompt"] = json.dumps(self.prompt(task, 0))
        completion = PoolCompletion(
            np.array(prompt, np.int32),
            np.array(out.ids, np.int32),
            np.array(out.logprobs, np.float32),
            np.array(out.weight_versions, np.int32),
        )
        return PoolTrajectory(key, (completion,), reward, task=task, extra=extra)

    def _held(self) -> frozenset[int]:
        if not hasattr(self, "_numbers"):
            self._numbers = frozenset(_number(task) for task in self.held_out)
        return self._numbers


def in_process(
    config: TrainConfig, taskset: Taskset, format: TurnFormat, tasks: Sequence[str]
) -> WorldRollouts:
    """Episodes as a configuration with agent ``shots`` has them, by stage."""
    own = [stage.agent for stage in config.stages] or [{}]
    shots = [Shots(**{**config.agent.settings, **agent}).shots for agent in own]
    return WorldRollouts(taskset, format, tasks, taskset.ids("test"), shots)


def _number(task: str) -> int:
    return int(task.rpartition("/")[2])
