"""The small repository of these tests as an environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from m2gym.core.registry import ENVS
from m2gym.core.task import PreparedTask, Reference, Task
from m2gym.envs.catalog import EnvEntry
from tests.rewards.conftest import FIXED, Bench


@contextmanager
def small_env(env_id: str, bench: Bench) -> Iterator[str]:
    """One task: a repository with a bug, hidden tests and a reference."""

    class Small:
        name = "small"

        def ids(self, split: str) -> list[str]:
            return ["calc"]

        def task(self, task_id: str) -> Task:
            return bench.prepared().task

        def prepare(self, task: Task) -> PreparedTask:
            prepared = bench.prepared()
            reference = Reference(files={"src/calc.py": FIXED.encode()})
            return PreparedTask(task, prepared.workspace, prepared.hidden, reference)

    ENVS.register(env_id, EnvEntry(env_id, Small))
    try:
        yield env_id
    finally:
        ENVS._values.pop(env_id, None)
