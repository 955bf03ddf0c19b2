"""A small environment as an installed package, which verl's processes find as well.

Its reward looks at what the agent said: nothing a model has to know, so that a tiny one earns some
of it in any agent's words. What a task's id says goes wrong, goes wrong.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SOURCE = '''
"""Say something short."""
import m2gym
from m2gym.envs import EnvEntry
from m2gym.tasksets.memory import ListTaskset

LETTERS = 100


def brief(trajectory, task):
    """More for less that the program printed; of task nan-…, what no trainer may learn from."""
    if task.id.startswith("nan"):
        return float("nan")
    said = trajectory[-1].observation.partition("\\n[stderr]")[0]
    return max(0.0, 1.0 - len(said.strip()) / LETTERS)


def task_of(id):
    return m2gym.Task(
        id=id,
        instruction=f"{id}: say one word.",
        files={"notes.txt": ""},
        rewards=[m2gym.RewardSpec(name="brief")],
        limits=m2gym.Limits(seconds=120, steps=8),
    )


def tasks(kinds=("fine",), number=4):
    made = [task_of(f"{kind}-{n}") for n in range(number) for kind in kinds]
    return ListTaskset("words", made)


ENV = EnvEntry("words", tasks, "say something short")
'''

METADATA = "Metadata-Version: 2.1\nName: m2gym-words\nVersion: 1.0\n"
POINTS = "[m2gym.envs]\nwords = m2gym_words:ENV\n[m2gym.rewards]\nbrief = m2gym_words:brief\n"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package in ``folder``, for this process and those that it starts."""
    info = folder / "m2gym_words-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "m2gym_words.py").write_text(SOURCE)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(POINTS)
    above = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *([above] if above else [])]))
    monkeypatch.syspath_prepend(folder)
