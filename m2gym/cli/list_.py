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
        rows = task_rows(env)
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


def task_rows(env: str) -> list[dict[str, Any]]:
    """Every task of an environment: the first line of its instruction, and its metadata (but its
    hidden files)."""
    from m2gym.envs.catalog import env_entry

    taskset = env_entry(env).taskset()
    rows = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for task_id in taskset.ids(split):
            task = taskset.task(task_id)
            first = task.instruction.strip().split("\n")[0]
            text = shorten(first, ABOUT_CHARACTERS, placeholder=" …")
            metadata = {key: value for key, value in task.metadata.items() if key != "hidden"}
            rows.append({"id": task_id, "split": split, "about": text, "metadata": metadata})
    return rows
