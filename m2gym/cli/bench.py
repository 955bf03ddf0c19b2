"""``m2gym bench``: measure here, beside the plain alternative."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json
from m2gym.core.errors import UnknownIdError

NAMES = ("episode", "workspace")


def bench(
    name: Annotated[str, typer.Argument(help="episode or workspace.")],
    env: Annotated[str, typer.Option(help="Environment measured by `episode`.")] = "swe-repo",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Tasks of `episode`.")] = 4,
    repeat: Annotated[int, typer.Option("--repeat", "-k", min=1, help="Repetitions.")] = 5,
    workspace: options.WorkspaceKind = "auto",
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure speed on this machine; figures are medians of one run."""
    if name not in NAMES:
        raise UnknownIdError("benchmark", name, NAMES)
    note("measuring; leave the machine alone for a few minutes")
    if name == "workspace":
        rows: list[dict[str, Any]] = importlib.import_module("m2gym.workspaces.bench").run()
    else:
        from m2gym.rollout.bench import bench_episode

        figures = bench_episode(env, limit=limit, repeat=repeat, workspace=workspace)
        rows = [asdict(figure) for figure in figures]
    if json:
        show_json(rows)
        return
    table = Table("what", "measured", "target", "beside")
    for row in rows:
        measured = f"{row['value']:.4g} {row['unit']}"
        table.add_row(row["name"], measured, row["target"] or "–", row["baseline"])
    show(table)
