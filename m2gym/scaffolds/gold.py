"""The agent that applies the reference change: what a task's reward must give 1 for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.errors import VerifierError, WorkspaceLostError
from m2gym.core.protocols import Episode


@dataclass
class Gold:
    """Writes and deletes the reference's files, runs its script, submits.

    Raises:
        VerifierError: the task has no reference, so that its grader cannot be tried.
    """

    name: str = field(default="gold", init=False)
    uses_model: ClassVar[bool] = False

    async def run(self, episode: Episode) -> None:
        reference = episode.prepared.reference
        if reference is None:
            raise VerifierError(f"task {episode.task.id!r} has no reference change to apply")
        box = episode.workspace
        for path, data in reference.files.items():
            if data is not None:
                await box.write(path, data)
                continue
            removed = await box.exec(["rm", "-f", "--", path])
            if not removed.ok:
                raise WorkspaceLostError(f"deleting {path!r} failed: {removed.output.strip()}")
        if reference.script is not None:
            await episode.act(reference.script)
        if not episode.done:
            await episode.submit()
