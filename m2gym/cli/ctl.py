"""``m2gym ctl``: look at a run that is going on, and change its limits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json


def ctl(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="KEY=NUMBER[,…]: episodes, boxes, creations, model_calls, graders; 0 pauses, "
            "'none' lifts the bound.",
        ),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show how far a run is and what it waits for; with --set, change what happens at once.

    A change is in force when the command comes back. Places already held are given up as they end.
    """
    from m2gym.rollout.control import ask, status

    found = ask(run, options.pairs("--set", change)) if change else status(run)
    if json:
        show_json(found)
        return
    table = Table("what", "limit", "under way", "waiting")
    for name, gate in found["gates"].items():
        cells = (gate["limit"], gate.get("held"), gate.get("waiting"))
        table.add_row(name, *("–" if cell is None else f"{cell:g}" for cell in cells))
    show(table)
    mean = found["mean_now"]
    score = "" if mean is None else f", mean {mean:.2f} of those graded since it started"
    state = "running" if found["running"] else "not running"
    age = time.time() - found["updated"]
    note(f"{state}; {found['done']} of {found['total']} episodes{score}; as of {age:.0f} s ago")
    spent = found["retries"]
    if spent["used"]:
        causes = ", ".join(f"{count} {cause}" for cause, count in sorted(spent["used"].items()))
        note(f"tried again: {causes}; {spent['left']} left")
