"""The room's page: its code runs, its lists are complete."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import m2gym.core.task
import m2gym.rewards
from m2gym.core.errors import InputError
from m2gym.core.registry import REWARDS
from m2gym.core.task import Task
from m2gym.rewards.protect import CONFIGURATION

PAGE = (Path(m2gym.rewards.__file__).parent / "README.md").read_text()


def test_ones_own_reward_in_ten_lines() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    space: dict[str, object] = {"m2gym": m2gym, "__name__": "somebody.rewards"}
    exec(code, space)
    task = space["task"]
    assert isinstance(task, Task)
    spec = task.rewards[0].model_copy(update={"parameters": {}})
    with pytest.raises(InputError, match="limit"):
        m2gym.rewards.check_rewards(task.model_copy(update={"rewards": (spec,)}))


@pytest.mark.parametrize("name", ["tests-pass", "tests-fraction"])
def test_every_parameter_is_explained(name: str) -> None:
    parameters = set(inspect.signature(REWARDS.get(name)).parameters) - {"grading"}
    assert all(f"| `{parameter}` |" in PAGE for parameter in parameters)


def test_rewards_and_guarded_files_are_listed() -> None:
    room = [n for n in REWARDS.names() if REWARDS.get(n).__module__.startswith("m2gym.rewards")]
    assert {"tests-pass", "tests-fraction"} <= set(room)
    assert all(f"| `{name}` |" in PAGE for name in room)
    shown = {name for name in CONFIGURATION if "pytest." not in name}
    assert all(f"`{name}`" in PAGE for name in shown)
