"""What verl asks next: the i-th item of the run's endless order, as in `m2gym.backends.local`."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from m2gym.backends.local.schedule import TaskOrder

AHEAD = 1_000_000
"""Items that there are, for verl's data loader; a run ends by its updates."""


class Items(Dataset[dict[str, Any]]):
    """verl's ``data.custom_cls``; ``config.m2gym`` has ``tasks`` and ``seed``."""

    def __init__(
        self,
        data_files: Any,
        tokenizer: Any,
        config: Any,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        self.order = TaskOrder(list(config.m2gym.tasks), int(config.m2gym.seed))

    def __len__(self) -> int:
        return AHEAD

    def __getitem__(self, item: int) -> dict[str, Any]:
        task = self.order.task(item)
        return {
            "raw_prompt": task,
            "task": task,
            "item": item,
            "index": item,
            "agent_name": "m2gym",
            "data_source": "m2gym",
        }
