"""How fast injected-bug tasks are made: ``m2gym bench tasks``."""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any

from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.injected.finder import Finder
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.swe_repo.release import baseline, open_release
from m2gym.tasksets.swe_repo.splits import split_of
from m2gym.workspaces import make_workspace

PACKAGES = (("inflection", "0.5.1"), ("parse", "1.22.4"), ("schema", "0.7.8"), ("toolz", "1.2.0"))
"""Releases whose tests take less than two seconds."""
TASKS = 8
SEED = 1000


def run(tasks: int = TASKS, concurrency: int = 2) -> list[dict[str, Any]]:
    """Verified tasks a minute for each release, after warm-up, and over all of them.

    Warm-up is what is done once a release: its download, its dependencies, its tests as they are.
    ``processor`` is seconds of processor time a task, of all processes.
    """
    return asyncio.run(_run(tasks, concurrency))


async def _run(tasks: int, concurrency: int) -> list[dict[str, Any]]:
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    cache = Cache()
    rows: list[dict[str, Any]] = []
    for package, version in PACKAGES:
        started = time.monotonic()
        release = open_release(package, version, cache, portable=True)
        base = await baseline(release, _make_box)
        warm = time.monotonic() - started
        finder = Finder(
            release,
            base,
            _make_box,
            cache,
            seed=SEED,
            wanted=tasks,
            split=split_of(package),
            tries=40 * tasks,
        )
        started, before = time.monotonic(), _processor()
        found = await finder.run(concurrency)
        rows.append(
            {
                "release": release.name,
                "tests_s": base.seconds,
                "warm_up_s": round(warm, 1),
                "tried": finder.funnel.tried,
                "tasks": len(found),
                "seconds": round(time.monotonic() - started, 1),
                "processor_s": round(_processor() - before, 1),
            }
        )
    whole: dict[str, Any] = {"release": "all", "tests_s": None, "warm_up_s": None}
    for key in ("tried", "tasks", "seconds", "processor_s"):
        whole[key] = round(sum(row[key] for row in rows), 1)
    rows.append(whole)
    for row in rows:
        row["tasks_a_minute"] = round(60 * row["tasks"] / row["seconds"], 1)
    return rows


def _make_box(spec: WorkspaceSpec) -> Workspace:
    return make_workspace(spec, "auto")


def _processor() -> float:
    """Processor seconds of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)
