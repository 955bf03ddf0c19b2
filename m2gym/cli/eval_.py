"""``m2gym eval``: let an agent attempt tasks, and record every episode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, split_name
from m2gym.core.errors import InputError

CONFIGURED = ("model", "split", "task", "limit", "attempts", "workspace", "seed")
"""Options that belong to a run's configuration."""


def eval_(
    context: typer.Context,
    env: Annotated[
        str | None, typer.Argument(help="Environment id; see `m2gym list envs`.")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent", "-a", help="gold, noop, scripted:FILE, random, human, … or module:Class."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="For agents that call a model.")
    ] = None,
    split: options.SplitName = "test",
    task: options.TaskIds = None,
    limit: options.Limit = None,
    attempts: Annotated[int, typer.Option("--attempts", "-k", min=1, help="Episodes a task.")] = 1,
    concurrency: options.Concurrency = None,
    workspace: options.WorkspaceKind = "auto",
    seed: Annotated[int, typer.Option(help="Episode seeds follow from it.")] = 0,
    out: options.Out = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out, with its own configuration; ENV, --agent and "
            "the rest are left out, or given whole and must be the same.",
        ),
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Let an agent attempt tasks of an environment and print its score.

    Every episode is recorded in a run folder. Ctrl-C stops all boxes; --resume finishes the run.
    Episodes that infrastructure failed have no score; --resume tries them again.
    """
    from m2gym.rollout.evaluation import evaluate, next_folder

    if resume and env is None and agent is None:
        settings = recorded(out)
        changing = [f"--{name}" for name in CONFIGURED if given(context, name)]
        if changing:
            raise InputError(
                f"--resume uses the run's own configuration: leave out {', '.join(changing)}"
            )
    elif env is None or agent is None:
        raise InputError("say what to run: m2gym eval ENV --agent AGENT (or --resume --out RUN)")
    else:
        settings = {
            "env": env,
            "agent": agent,
            "model": model,
            "split": split_name(split),
            "tasks": task or None,
            "limit": limit,
            "attempts": attempts,
            "workspace": workspace,
            "seed": seed,
        }
    path = out if out is not None else next_folder(settings["env"], settings["agent"])
    try:
        run = evaluate(
            **settings, concurrency=concurrency, out=path, resume=resume, progress=not json
        )
    except KeyboardInterrupt:
        note(f"m2gym: stopped; finish with: m2gym eval --resume --out {path}")
        raise typer.Exit(130) from None
    if json:
        show_json({**run.summary.as_dict(), "path": str(run.path), "complete": run.complete})
    else:
        show(str(run))
        note(f"run: {run.path}")
    if run.summary.estimate is None:
        error = next((t.error for t in run if t.error), "no episode")
        raise InputError(f"no episode could be graded; the first says: {error}")


def given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def recorded(out: Path | None) -> dict[str, Any]:
    """The settings of the run in ``out``."""
    from m2gym.rollout.run_folder import read_info

    if out is None:
        raise InputError("--resume needs the run's folder: --out RUN")
    config = read_info(out).config
    names = ("env", "agent", "model", "split", "attempts", "workspace", "seed")
    return {**{name: getattr(config, name) for name in names}, "tasks": list(config.tasks)}
