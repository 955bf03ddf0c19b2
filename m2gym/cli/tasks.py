"""``m2gym tasks``: verify the shipped tasks of ``swe-repo``, and write their page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show_json
from m2gym.core.blocking import run_blocking

tasks = typer.Typer(help="Verify the tasks of swe-repo again, and write their page.")

PAGE = Path("docs/swe-repo.md")


@tasks.command()
def verify(
    task: options.TaskIds = None,
    limit: options.Limit = None,
    runs: Annotated[int, typer.Option("--times", "-k", min=1, help="Verdicts of each kind.")] = 1,
    prune: Annotated[
        bool, typer.Option("--prune", help="Take unfit tasks out of the shipped set.")
    ] = False,
    concurrency: Annotated[int, typer.Option("--concurrency", "-j", min=1)] = 2,
    workspace: options.WorkspaceKind = "auto",
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Judge gold, no change, wrong and equal patches of every task; goes on where it stopped.

    Exits with 1 when a task is unfit or could not be verified.
    """
    from m2gym.tasksets.quality.verify_tasks import prune as take_out
    from m2gym.tasksets.quality.verify_tasks import verify_tasks
    from m2gym.tasksets.swe_repo.shipped import recipes
    from m2gym.tasksets.swe_repo.tried import DATA

    wanted = {name: r for name, r in recipes().items() if not task or name in task}
    wanted = dict(list(wanted.items())[:limit])
    started = time.monotonic()

    def say(what: str, done: int, total: int) -> None:
        if not json:
            note(f"{done}/{total} {time.monotonic() - started:.0f} s {what}")

    work = verify_tasks(wanted, concurrency=concurrency, workspace=workspace, runs=runs, say=say)
    try:
        state = run_blocking(work)
    except KeyboardInterrupt:
        note("stopped; the same command goes on with the tasks that have no result yet")
        raise typer.Exit(130) from None
    unfit = {name: problem for name, v in state.items() if (problem := v.problem)}
    lost = sorted(wanted.keys() - state.keys())
    if prune:
        take_out(wanted, state, DATA)
    seconds = time.monotonic() - started
    if json:
        show_json({"verified": len(state), "unfit": unfit, "lost": lost, "seconds": seconds})
    else:
        note(f"{len(state)} of {len(wanted)} verified in {seconds:.0f} s; unfit: {unfit or 'none'}")
    if unfit or lost:
        raise typer.Exit(1)


@tasks.command()
def page(
    out: Annotated[Path, typer.Option("--out", "-o", help="The page whose tables are set.")] = PAGE,
    debug: options.Debug = False,
) -> None:
    """Write the tables of the tasks' page from what was measured."""
    from m2gym.cli.tasks_page import set_tables

    text = out.read_text(encoding="utf-8")
    out.write_text(set_tables(text), encoding="utf-8")
    note(f"wrote the tables of {out}")
