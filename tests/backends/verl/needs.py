"""What the tests with verl share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import m2gym
from m2gym.backends.verl.environment import prepare
from m2gym.backends.verl.versions import lacks


def verl_here() -> None:
    """Skip where verl cannot run: these tests have an environment of their own."""
    found = list(lacks())
    if found:
        pytest.skip(f"{found[0].what}; run: {found[0].mend}")
    prepare(Path("run"))


def config(out: Path, **own: Any) -> m2gym.TrainConfig:
    """m2-nano on one world of ``tool-worlds``, which it knows nothing of."""
    from m2gym.models import nano

    train = {"steps": 3, "groups": 2, "group_size": 4, "max_tokens": 48, "lr": 8e-4}
    return m2gym.TrainConfig(
        **{
            "env": {"id": "tool-worlds", "world": 5, "questions": 64},
            "agent": {"id": "shots", "shots": 3},
            "model": str(nano.folder()),
            "algorithm": {"id": "grpo"},
            "backend": {"id": "verl"},
            "train": train,
            "out": out,
            **own,
        }
    )
