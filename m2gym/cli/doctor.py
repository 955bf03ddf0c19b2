"""``m2gym doctor``: what this machine can do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json

MARKS = {
    "ok": "[green]ok[/green]",
    "limited": "[yellow]limited[/yellow]",
    "missing": "[red]missing[/red]",
}


def doctor(
    what: Annotated[
        str | None, typer.Argument(help="'verl' looks at that backend alone; all when left out.")
    ] = None,
    reap: Annotated[
        bool, typer.Option("--reap", help="Remove what dead runs left, and say what it was.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say what this machine can do, and for each lack the one command that mends it.

    Exits with 1 when something is missing without which no environment runs.
    """
    from m2gym.cli.checks import checks, reap_dead, verl_checks
    from m2gym.core.errors import InputError

    if what not in (None, "verl"):
        raise InputError(f"doctor looks at everything, or at 'verl'; got {what!r}")
    if reap:
        removed = reap_dead()
        if json:
            show_json({"removed": removed})
        else:
            note("\n".join(f"removed {what}" for what in removed) or "nothing was left")
        return
    found = list(verl_checks() if what == "verl" else checks())
    if json:
        show_json([asdict(check) for check in found])
    else:
        table = Table("what", "state", "detail", "mend", box=None)
        table.columns[3].overflow = "fold"
        for check in found:
            table.add_row(check.name, MARKS[check.state], escape(check.detail), escape(check.mend))
        show(table)
    if any(check.state == "missing" for check in found):
        raise typer.Exit(1)
