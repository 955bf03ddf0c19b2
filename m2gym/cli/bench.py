"""``m2gym bench``: measure here, beside the plain alternative."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json
from m2gym.core.errors import InputError, UnknownIdError

Rows = list[dict[str, Any]]


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="workspace, episode, runs, tasks, gateway, recorder, forge, kernels or train."
        ),
    ],
    env: Annotated[str, typer.Option(help="Environment whose episodes are measured.")] = "swe-repo",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many of its tasks.")] = 4,
    repeat: Annotated[int, typer.Option("--repeat", "-k", min=1, help="Repetitions.")] = 5,
    workspace: options.WorkspaceKind = "auto",
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure speed on this machine; figures are medians of one run."""

    def episode() -> Rows:
        from m2gym.rollout.bench import bench_episode

        figures = bench_episode(env, limit=limit, repeat=repeat, workspace=workspace)
        return [asdict(figure) for figure in figures]

    benches: dict[str, Callable[[], Rows]] = {
        "episode": episode,
        "workspace": lambda: [*_module("m2gym.workspaces.bench"), *episode()],
        "runs": lambda: _module("m2gym.rollout.bench_runs"),
        "tasks": lambda: _module("m2gym.tasksets.injected.bench"),
        "gateway": lambda: _module("m2gym.gateway.bench"),
        "recorder": lambda: [
            *_module("m2gym.models.bench"),
            *_module("m2gym.gateway.bench.recorder"),
        ],
        "forge": lambda: _module("m2gym.forge.bench"),
        "kernels": lambda: _module("m2gym.kernels.bench"),
        "train": lambda: _module("m2gym.backends.local.bench"),
    }
    if name not in benches:
        raise UnknownIdError("benchmark", name, benches)
    note("measuring; leave the machine alone for a few minutes")
    rows = benches[name]()
    if json:
        show_json(rows)
    else:
        show(_table(rows))


def _module(name: str) -> Rows:
    try:
        rows: Rows = importlib.import_module(name).run()
    except ModuleNotFoundError as error:
        raise InputError(
            f"this benchmark needs {error.name}: pip install 'm2gym[train,kernels]'"
        ) from error
    except RuntimeError as error:
        raise InputError(str(error)) from error
    return rows


def _table(rows: Rows) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
