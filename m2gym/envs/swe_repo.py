"""``swe-repo``: real faults in real packages, judged by the packages' own tests."""

from __future__ import annotations

from typing import Any

from m2gym.core.task import Taskset
from m2gym.envs.catalog import EnvEntry


def _tasks(**settings: Any) -> Taskset:
    from m2gym.tasksets.swe_repo.shipped import SweRepo

    return SweRepo(**settings)


ENTRY = EnvEntry("swe-repo", _tasks, "real faults in packages, judged by their own tests")
