"""A small environment registered by a test: write ``hi`` into ``out.txt``."""

from __future__ import annotations

from typing import Any

import m2gym
from m2gym.core.artifacts import Artifacts


@m2gym.reward("says-hi")
def says_hi(artifacts: Artifacts) -> float:
    """1 when ``out.txt`` holds ``hi``."""
    return float("out.txt" in artifacts and artifacts.text("out.txt").strip() == "hi")


def register(id: str = "tiny-hi", **limits: Any) -> str:
    """Register three tasks under ``id``."""
    m2gym.register(
        id,
        tasks=[
            m2gym.Task(
                id=f"t{number}",
                instruction="Write hi into out.txt.",
                files={"a.txt": f"{number}\n"},
                limits=m2gym.Limits(**limits),
                rewards=(m2gym.RewardSpec(name="says-hi"),),
            )
            for number in range(3)
        ],
    )
    return id
