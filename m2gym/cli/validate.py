"""``m2gym validate``: is an environment right?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, split_name


def validate(
    env: Annotated[str, typer.Argument(help="Environment id; see `m2gym list envs`.")],
    split: options.SplitName = "test",
    task: options.TaskIds = None,
    limit: options.Limit = None,
    times: Annotated[int, typer.Option("--times", "-k", min=1, help="Repetitions.")] = 3,
    concurrency: options.Concurrency = None,
    workspace: options.WorkspaceKind = "auto",
    out: options.Out = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check every task: the reference change scores 1, doing nothing less, always the same.

    Exits with 1 when a task fails, and says why.
    """
    from m2gym.rollout.evaluation import next_folder
    from m2gym.rollout.validate import validate as run_checks

    path = out if out is not None else next_folder(env, "validate")
    try:
        checks = run_checks(
            env,
            path,
            split=split_name(split),
            tasks=task or None,
            limit=limit,
            times=times,
            concurrency=concurrency,
            workspace=workspace,
            progress=not json,
        )
    except KeyboardInterrupt:
        note("m2gym: stopped")
        raise typer.Exit(130) from None
    failed = [check for check in checks if not check.ok]
    if json:
        show_json(
            {
                "env": env,
                "ok": not failed,
                "path": str(path),
                "tasks": [{**asdict(check), "ok": check.ok} for check in checks],
            }
        )
    else:
        table = Table("task", "gold", "noop", "verdict")
        for check in checks:
            table.add_row(
                escape(check.task),
                _rewards(check.gold),
                _rewards(check.noop),
                escape("; ".join(check.problems)) or "ok",
            )
        show(table)
        note(f"{len(checks) - len(failed)} of {len(checks)} tasks are right; runs: {path}")
    if failed:
        raise typer.Exit(1)


def _rewards(rewards: list[float | None]) -> str:
    return " ".join("–" if reward is None else f"{reward:g}" for reward in rewards)
