"""An episode in stages: one box, and for each stage its own instruction, deadline and verdict.

```
lay out ──► the agent works ──► submit, or its deadline ──► graded ──► lay out the next …
                                                              └─ threshold missed, or last: verdict
```
"""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path

from m2gym.core.errors import InfraError
from m2gym.core.task import PreparedTask, Stage
from m2gym.core.verdict import Stop, Verdict
from m2gym.core.workspace import User, Workspace
from m2gym.rewards.grading import tree
from m2gym.rewards.stages import combined, reached
from m2gym.rewards.verifier import pack_files

GOES_ON: frozenset[Stop] = frozenset({"submitted", "exited", "deadline"})
"""Ends of a stage; any other end is the whole episode's."""


async def lay_out(box: Workspace, prepared: PreparedTask, stage: Stage | None = None) -> None:
    """Make an agent's box ready: what the task, and what a stage of it, puts there.

    Raises:
        InfraError: a script of the task's failed.
    """
    root: User | None = "root" if "users" in box.capabilities else None
    if prepared.setup is not None:
        await _run(box, prepared.setup, root, "setting up the task's folders")
    if stage is not None and stage.files is not None:
        await box.unpack(await asyncio.to_thread(_packed, stage.files), user="agent")
    if stage is not None and stage.setup is not None:
        await _run(box, stage.setup, None, f"setting up stage {stage.name!r}")


async def _run(box: Workspace, script: str, user: User | None, what: str) -> None:
    done = await box.exec(script, user=user, timeout=600)
    if not done.ok:
        raise InfraError(f"{what} failed (exit code {done.exit_code}): {done.output[-400:]}")


def _packed(folder: Path) -> bytes:
    return pack_files(tree(folder))


class Stages:
    """Where an episode of a task in stages is, and what was judged so far."""

    def __init__(self, plan: PreparedTask) -> None:
        self.plan = plan
        self.index = 0
        self.judged: dict[str, Verdict] = {}

    @property
    def stage(self) -> Stage:
        """The present one."""
        return self.plan.stages[self.index]

    @property
    def last(self) -> bool:
        """Whether no other can follow."""
        return self.index == len(self.plan.stages) - 1

    def take(self, verdict: Verdict, stop: Stop) -> Verdict | None:
        """Note a stage's verdict; the task's, if that was its end, else the next stage is on."""
        stages = self.plan.stages
        self.judged[self.stage.name] = verdict
        ended = self.last or not reached(verdict, self.stage.least)
        if not ended and stop in GOES_ON:
            self.index += 1
            return None
        never = () if ended else [stage.name for stage in stages[self.index + 1 :]]
        return combined(self.judged, self.plan.strategy, never=never, stop=stop)

    def forked(self) -> Stages:
        """The same place, to go on from by itself."""
        twin = copy.copy(self)
        twin.judged = dict(self.judged)
        return twin
