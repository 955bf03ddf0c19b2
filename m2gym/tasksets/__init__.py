"""Sources of tasks: real repositories from the package registry, folders of tasks, and lists."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2gym.tasksets.injected.inject import Injected, inject, inject_async
    from m2gym.tasksets.swe_bench_rows.taskset import swe_bench
    from m2gym.tasksets.version_diffs.version_diff import (
        VersionDiff,
        version_diff,
        version_diff_async,
    )

_LAZY = {
    "Injected": "m2gym.tasksets.injected.inject",
    "inject": "m2gym.tasksets.injected.inject",
    "inject_async": "m2gym.tasksets.injected.inject",
    "swe_bench": "m2gym.tasksets.swe_bench_rows.taskset",
    "VersionDiff": "m2gym.tasksets.version_diffs.version_diff",
    "version_diff": "m2gym.tasksets.version_diffs.version_diff",
    "version_diff_async": "m2gym.tasksets.version_diffs.version_diff",
}

__all__ = [
    "Injected",
    "VersionDiff",
    "inject",
    "inject_async",
    "swe_bench",
    "version_diff",
    "version_diff_async",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'm2gym.tasksets' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value  # importing a module of the same name has bound it here
    return value
