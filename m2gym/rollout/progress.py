"""The progress bar of an evaluation, on the error stream so that results stay clean."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from m2gym.core.trajectory import Trajectory
from m2gym.rollout.notebook_bar import NotebookBar


class EpisodeProgress:
    """Episodes done of all, the mean reward so far, and how many could not be graded."""

    def __init__(self, label: str, total: int, done: int = 0, *, shown: bool = True) -> None:
        console = Console(stderr=True)
        self._notebook = NotebookBar(label, total) if shown and console.is_jupyter else None
        shown = shown and console.is_terminal and not console.is_jupyter
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not shown,
        )
        self._task = self._bar.add_task(label, total=total, completed=done, note="")
        self._files: TaskID | None = None
        self._sum, self._graded, self._masked = 0.0, 0, 0
        self.total, self.done, self._cost = total, done, 0.0

    def files(self, what: str, done: int, total: int) -> None:
        """A taskset's hook: downloads and builds; may be called from any thread."""
        if self._files is None:
            self._files = self._bar.add_task(what, total=total, note="")
        self._bar.update(
            self._files, description=what, completed=done, total=total, visible=done < total
        )

    def add(self, trajectory: Trajectory) -> None:
        """Count one finished episode."""
        self.done += 1
        self._cost += trajectory.usage.cost_usd
        if trajectory.verdict.reward is None:
            self._masked += 1
        else:
            self._graded += 1
            self._sum += trajectory.verdict.reward
        note = f"mean {self._sum / self._graded:.2f}" if self._graded else ""
        note += f" · {self._masked} not graded" if self._masked else ""
        self._bar.update(self._task, advance=1, note=note)
        if self._notebook is not None:
            self._notebook.show(self.done, note)

    def state(self) -> dict[str, float | int | None]:
        """The same in numbers."""
        return {
            "total": self.total,
            "done": self.done,
            "graded_now": self._graded,
            "masked_now": self._masked,
            "mean_now": self._sum / self._graded if self._graded else None,
            "cost_usd_now": round(self._cost, 6),
        }

    def __enter__(self) -> Self:
        self._bar.start()
        if self._notebook is not None:
            self._notebook.show(self.done, "")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
