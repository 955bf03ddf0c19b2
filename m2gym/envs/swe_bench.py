"""``swe-bench``: SWE-bench rows over container images or checkouts, judged by SWE-bench's rules."""

from __future__ import annotations

from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.task import Taskset
from m2gym.envs.catalog import EnvEntry


def taskset(**settings: Any) -> Taskset:
    """The tasks of ``rows``; see `m2gym.tasksets.swe_bench_rows.taskset.SweBench` for the settings.

    Raises:
        InputError: no rows, or a row or setting cannot be used; the message names it.
    """
    from m2gym.tasksets.swe_bench_rows.taskset import SweBench

    if "rows" not in settings:
        raise InputError(
            "swe-bench needs rows, and the image or checkout of each: m2gym.make('swe-bench', "
            "rows=FILE, image='NAME-{instance_id}'), or the id swe-bench:FILE,IMAGE for commands"
        )
    return SweBench(**settings)


def at(argument: str) -> EnvEntry:
    """The environment ``swe-bench:FILE,IMAGE``, or ``swe-bench:FILE,FOLDER/`` of checkouts."""
    rows, comma, place = argument.partition(",")
    if not comma or not rows or not place:
        raise InputError(
            f"expected swe-bench:FILE,IMAGE or swe-bench:FILE,FOLDER/, got swe-bench:{argument}"
        )

    def read(**settings: Any) -> Taskset:
        where = {"checkouts": place} if place.endswith("/") else {"image": place}
        return taskset(rows=rows, **where, **settings)

    return EnvEntry(f"swe-bench:{argument}", read, "SWE-bench rows of a file")


ENTRY = EnvEntry(
    "swe-bench", taskset, "SWE-bench rows (rows=FILE, image=NAME, or swe-bench:FILE,IMAGE)"
)
