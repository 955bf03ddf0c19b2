"""Processes of a run that die or hang: verl is not told, and waits for what they owe it for ever.

Every one of verl's processes is a named actor of Ray. A name that was there and is gone has died; a
process that plays episodes and answers nothing for `HANG` seconds hangs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

HANG = 300.0
"""Seconds in which a process that plays episodes answers, its start included; ours."""

PERIOD = 2.0
"""Seconds between two looks; the project's choice."""

PLAYERS = "agent_loop_worker_"
"""How verl calls processes that play episodes."""


class Watch:
    """Looks at the processes of the Ray that this process is connected to.

    Args:
        ray: the module. hang: see `HANG`.
    """

    def __init__(self, ray: Any, *, hang: float = HANG) -> None:
        self.ray, self.hang = ray, hang
        self.known: set[tuple[str, str]] = set()
        self.asked: dict[tuple[str, str], tuple[float, Any]] = {}
        self.last = 0.0

    def look(self) -> str | None:
        """What is wrong with which process, or ``None``; cheap however often it is called."""
        now = time.monotonic()
        if now - self.last < PERIOD:
            return None
        self.last = now
        alive = self._alive()
        lost, self.known = self.known - alive, alive
        if lost:
            return died(name for _, name in lost)
        silent = [who for who in alive if who[1].startswith(PLAYERS) and self._silent(who, now)]
        if silent:
            names = ", ".join(sorted(name for _, name in silent))
            return f"{names} answered nothing for {self.hang:g} s: it hangs"
        return None

    def _alive(self) -> set[tuple[str, str]]:
        listed = self.ray.util.list_named_actors(all_namespaces=True)
        return {(one["namespace"], one["name"]) for one in listed}

    def _silent(self, who: tuple[str, str], now: float) -> bool:
        namespace, name = who
        begun, answer = self.asked.get(who, (now, None))
        if answer is None or self.ray.wait([answer], timeout=0)[0]:
            try:
                actor = self.ray.get_actor(name, namespace)
            except ValueError:
                return False  # gone since it was listed: the next look says so
            self.asked[who] = now, actor.__ray_ready__.remote()
            return False
        return now - begun > self.hang


def named(error: BaseException) -> str | None:
    """Which process's death ``error`` of Ray tells of; ``None`` where it tells of none."""
    found = re.search(r"^\s*name: (\S+)$", str(error), re.MULTILINE)
    return died([found[1]]) if found else None


def died(names: Iterable[str]) -> str:
    """What is said of processes that are gone."""
    return f"{', '.join(sorted(names))} died: killed from outside, or out of memory"
