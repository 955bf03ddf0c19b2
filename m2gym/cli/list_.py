"""``m2gym list``: what there is."""

from __future__ import annotations

import inspect
from textwrap import shorten
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import show, show_json
from m2gym.core.errors import InputError
from m2gym.core.registry import BACKENDS, ENVS, REWARDS, SCAFFOLDS, TASKSETS, WORKSPACES, Registry
from m2gym.core.task import Split

ABOUT_CHARACTERS = 90
"""How much of an instruction a list shows; the project's choice."""

TOLD = ("package", "version", "kind", "difficulty", "grade_seconds")
"""Metadata of a task that ``--json`` shows."""

REGISTRIES: dict[str, Registry[Any]] = {
    "envs": ENVS,
    "rewards": REWARDS,
    "scaffolds": SCAFFOLDS,
    "backends": BACKENDS,
    "workspaces": WORKSPACES,
    "tasksets": TASKSETS,
}


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="envs, tasks, rewards, scaffolds, backends, workspaces or tasksets."),
    ] = None,
    env: Annotated[str | None, typer.Argument(help="For tasks: the environment.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List environments, the tasks of one, rewards, scaffolds, backends, workspaces, tasksets.

    With --json a task comes with its metadata.
    """
    if kind == "tasks":
        if env is None:
            raise InputError("whose tasks? m2gym list tasks ENV")
        rows = task_rows(env, whole=json)
    elif kind is None:
        rows = [
            {"kind": name, "id": key} for name, found in REGISTRIES.items() for key in found.names()
        ]
    elif kind in REGISTRIES:
        rows = [{"id": key, "about": about(REGISTRIES[kind], key)} for key in names(kind)]
    else:
        raise InputError(f"list {', '.join(REGISTRIES)} or tasks ENV, not {kind!r}")
    if json:
        show_json(rows)
        return
    columns = [key for key in (rows[0] if rows else ["nothing"]) if key != "metadata"]
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(escape(row[column]) for column in columns))
    show(table)


def names(kind: str) -> list[str]:
    """Ids of a kind."""
    return REGISTRIES[kind].names()


def about(registry: Registry[Any], key: str) -> str:
    """The first line of what is said about a registered thing."""
    if key not in registry:
        return ""
    try:
        value = registry.get(key)
    except ImportError as error:
        return f"cannot be imported: {error}"
    text = getattr(value, "description", None) or inspect.getdoc(value) or ""
    return str(text).strip().split("\n")[0]


def task_rows(env: str, *, whole: bool = False) -> list[dict[str, Any]]:
    """Every task of an environment with the first line of its instruction.

    ``whole`` adds what its metadata says of package, kind, difficulty and the like.
    """
    from m2gym.envs.catalog import env_entry

    taskset = env_entry(env).taskset()
    rows: list[dict[str, Any]] = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for task_id in taskset.ids(split):
            task = taskset.task(task_id)
            first = task.instruction.strip().split("\n")[0]
            text = shorten(first, ABOUT_CHARACTERS, placeholder=" …")
            row: dict[str, Any] = {"id": task_id, "split": split, "about": text}
            if whole:
                row |= {key: task.metadata[key] for key in TOLD if key in task.metadata}
            rows.append(row)
    return rows
