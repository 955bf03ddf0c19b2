"""``m2gym export``: a run in another format."""

from __future__ import annotations

import json as json_text
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.trajectory import Trajectory

FORMATS = {"atif": "documents", "inspect": "samples", "parquet": "rows", "jsonl": "lines"}
"""Format → what is counted. ``jsonl``: the counting record of each task and attempt, a line."""


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="atif, inspect, parquet or jsonl.")
    ] = "atif",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A folder (atif) or file; beside the run."),
    ] = None,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="ATIF: each call's whole prompt as token ids.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a run's trajectories as ATIF documents (one each), as a log that Inspect reads, as
    Parquet or JSON lines."""
    from m2gym.rollout import load_run

    if format not in FORMATS:
        raise UnknownIdError("format", format, FORMATS)
    found = load_run(run)
    trajectories = iter(found)
    if format == "parquet":
        from m2gym.models.parquet import write_parquet

        target = out or run.with_name(run.name + ".parquet")
        written = _writing(target, lambda: write_parquet(trajectories, target))
    elif format == "inspect":
        from m2gym.rollout.inspect_log import write_inspect

        target = out or run.with_name(run.name + ".inspect.json")
        written = _writing(target, lambda: write_inspect(found, target))
    elif format == "jsonl":
        target = out or run.with_name(run.name + ".jsonl")
        written = _writing(target, lambda: _jsonl(trajectories, target))
    else:
        target = out or run.with_name(run.name + "-atif")
        written = _writing(target, lambda: _atif(trajectories, target, prompts))
    if json:
        show_json({"format": format, "path": str(target), "written": written})
    else:
        note(f"{written} {FORMATS[format]} written")
        show(str(target))


def _jsonl(trajectories: Iterable[Trajectory], file: Path) -> int:
    written = 0
    with file.open("w", encoding="utf-8") as out:
        for trajectory in trajectories:
            out.write(trajectory.model_dump_json() + "\n")
            written += 1
    return written


def _atif(trajectories: Iterable[Trajectory], folder: Path, prompts: bool) -> int:
    from m2gym.models.atif import to_atif

    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for trajectory in trajectories:
        document = to_atif(trajectory, prompts=prompts)
        text = json_text.dumps(document, ensure_ascii=False)
        (folder / f"{file_name(trajectory)}.json").write_text(text, "utf-8")
        written += 1
    return written


def file_name(trajectory: Trajectory) -> str:
    """A name that is a file's on every system: task, attempt, id."""
    task = re.sub(r"[^A-Za-z0-9._-]+", "_", trajectory.task)[:80]
    return f"{task}.{trajectory.attempt}.{re.sub(r'[^A-Za-z0-9-]+', '_', trajectory.id)[:64]}"


def _writing(target: Path, work: Callable[[], int]) -> int:
    try:
        return work()
    except OSError as error:
        raise InputError(f"cannot write to {target}: {error.strerror or error}") from error
