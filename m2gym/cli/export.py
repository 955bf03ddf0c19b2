"""``m2gym export``: a run in another format, or an environment's tasks as Harbor folders."""

from __future__ import annotations

import json as json_text
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, split_name
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.trajectory import Trajectory

FORMATS = {
    "atif": "documents",
    "inspect": "samples",
    "parquet": "rows",
    "jsonl": "lines",
    "harbor": "task folders",
}
"""Format → what is counted. ``jsonl``: the counting record of each task and attempt, a line.
``harbor`` is of an environment's tasks, the others of a run."""


def export(
    run: Annotated[str, typer.Argument(help="A run's folder; for harbor, an environment's id.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="atif, inspect, parquet, jsonl or harbor.")
    ] = "atif",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A folder (atif, harbor) or file; beside the run."),
    ] = None,
    split: options.SplitName = "test",
    task: options.TaskIds = None,
    limit: options.Limit = None,
    base: Annotated[
        str | None, typer.Option("--base", help="harbor: the image that the folders build on.")
    ] = None,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="ATIF: each call's whole prompt as token ids.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a run's trajectories as ATIF documents (one each), as a log that Inspect reads, as
    Parquet or JSON lines; or an environment's tasks as Harbor folders."""
    if format not in FORMATS:
        raise UnknownIdError("format", format, FORMATS)
    if format == "harbor":
        target = out or Path(f"{re.sub(r'[^A-Za-z0-9._-]+', '-', run)}-harbor")
        written = _writing(target, lambda: _harbor(run, target, split, task, limit, base))
    else:
        target, written = _run(Path(run), format, out, prompts)
    if json:
        show_json({"format": format, "path": str(target), "written": written})
    else:
        note(f"{written} {FORMATS[format]} written")
        show(str(target))


def _harbor(
    env: str, folder: Path, split: str, tasks: list[str] | None, limit: int | None, base: str | None
) -> int:
    from m2gym.envs.catalog import env_entry
    from m2gym.tasksets.harbor.export import BASE, export_task

    taskset = env_entry(env).taskset()
    ids = list(tasks or taskset.ids(split_name(split)))[:limit]
    for id in ids:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", id)
        export_task(taskset.prepare(taskset.task(id)), folder / name, base=base or BASE)
    return len(ids)


def _run(run: Path, format: str, out: Path | None, prompts: bool) -> tuple[Path, int]:
    from m2gym.rollout import load_run

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
    return target, written


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
