"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2gym.core.errors import InputError

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SplitName = Annotated[str, typer.Option("--split", help="Whose tasks: train or test.")]
TaskIds = Annotated[
    list[str] | None,
    typer.Option("--task", "-t", help="A task's id (repeatable), instead of a split."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="Only the first so many tasks.")
]
Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", "-j", min=1, help="Episodes at once [default: processors]."),
]
WorkspaceKind = Annotated[
    str, typer.Option("--workspace", "-w", help="Where boxes run: auto, or see `list workspaces`.")
]


def folder(text: str) -> Path:
    """A folder's path, which is not empty."""
    if not text.strip():
        raise typer.BadParameter("a folder's name is empty; leave the option out, or '.' for here")
    return Path(text)


Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        parser=folder,
        metavar="FOLDER",
        help="Folder for the run [default: below runs/].",
    ),
]


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """``KEY=VALUE[,KEY=VALUE …]`` of a repeatable option."""
    found = {}
    for entry in given or ():
        for part in filter(None, entry.split(",")):
            key, equals, value = part.partition("=")
            if not equals or not key.strip() or not value.strip():
                raise InputError(f"{option} is KEY=VALUE[,KEY=VALUE …], got {entry!r}")
            found[key.strip()] = value.strip()
    return found
