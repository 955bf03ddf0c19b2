"""``m2gym regrade``: judge what episodes left once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, stopped


def regrade(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    times: Annotated[int, typer.Option("--times", "-k", min=1, help="Gradings an episode.")] = 1,
    task: options.TaskIds = None,
    concurrency: options.Concurrency = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="The new verdicts become the episodes' own.")
    ] = False,
    changed_tasks: Annotated[
        bool,
        typer.Option("--changed-tasks", help="Grade by the tasks as they are now, changed or not."),
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Grade a run's kept artifacts again: after mending a grader, or to see how steady it is.

    No agent runs and no model is called. Shows every verdict that changed, and the flake rate over
    all gradings. Without --apply the run's score stays.
    """
    from m2gym.report.flakes import flake_rate
    from m2gym.rollout.regrade import regrade as run_again
    from m2gym.rollout.run import load_run

    try:
        found = run_again(
            run,
            times=times,
            tasks=task or None,
            concurrency=concurrency,
            apply=apply,
            changed_tasks=changed_tasks,
        )
    except KeyboardInterrupt:
        stopped("gradings so far are kept")
    flakes = flake_rate(load_run(run).verdicts())
    if json:
        show_json(
            {
                "gradings": len(found.gradings),
                "skipped": found.skipped,
                "changed": [
                    {
                        "task": episode.task,
                        "attempt": episode.attempt,
                        "before": episode.verdict.reward,
                        "after": grading.verdict.reward,
                    }
                    for episode, grading in found.changed
                ],
                "flakes": flakes.as_dict(),
                "applied": apply,
            }
        )
        return
    if found.changed:
        table = Table("task", "attempt", "before", "after")
        for episode, grading in found.changed:
            cells = (_verdict(episode.verdict), _verdict(grading.verdict))
            table.add_row(escape(episode.task), str(episode.attempt), *cells)
        show(table)
    skipped = f"; {found.skipped} episodes have no artifacts" if found.skipped else ""
    show(f"{len(found.gradings)} gradings, {len(found.changed)} verdicts changed{skipped}")
    show(flakes.text())
    if found.changed and not apply:
        note("the run's verdicts stay as they were; --apply replaces them")


def _verdict(verdict: object) -> str:
    reward, status = getattr(verdict, "reward", None), getattr(verdict, "status", "")
    return escape(status if reward is None else f"{reward:g} ({status})")
