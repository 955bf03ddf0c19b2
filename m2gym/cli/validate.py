"""``m2gym validate``: is an environment right?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, split_name

if TYPE_CHECKING:
    from m2gym.rollout.attacks.battery import Outcome


def validate(
    env: Annotated[str, typer.Argument(help="Environment id; see `m2gym list envs`.")],
    split: options.SplitName = "test",
    task: options.TaskIds = None,
    limit: options.Limit = None,
    times: Annotated[int, typer.Option("--times", "-k", min=1, help="Repetitions.")] = 3,
    concurrency: options.Concurrency = None,
    workspace: options.WorkspaceKind = "auto",
    attacks: Annotated[
        bool, typer.Option("--attacks", help="Also try to cheat the grader in every known way.")
    ] = False,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help="Only these attacks; may be repeated.")
    ] = None,
    out: options.Out = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check every task: the reference change scores 1, doing nothing less, always the same.

    With --attacks, also that no known way to cheat earns more than doing nothing.
    Exits with 1 when a task fails or an attack succeeds, and says why.
    """
    from m2gym.rollout.attacks.battery import run_battery
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
        outcomes = (
            run_battery(
                env,
                path / "attacks",
                names=attack or None,
                split=split_name(split),
                tasks=task or None,
                limit=limit,
                concurrency=concurrency,
                workspace=workspace,
                noop={c.task: max((r for r in c.noop if r is not None), default=0) for c in checks},
                progress=not json,
            )
            if attacks or attack
            else []
        )
    except KeyboardInterrupt:
        note("m2gym: stopped")
        raise typer.Exit(130) from None
    failed = [check for check in checks if not check.ok]
    won = [outcome for outcome in outcomes if not outcome.ok]
    if json:
        show_json(
            {
                "env": env,
                "ok": not failed and not won,
                "path": str(path),
                "tasks": [{**asdict(check), "ok": check.ok} for check in checks],
                "attacks": [{**asdict(outcome), "ok": outcome.ok} for outcome in outcomes],
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
        if outcomes:
            show(_attack_table(outcomes))
            note(f"{len(outcomes) - len(won)} of {len(outcomes)} attacks earned nothing")
        note(f"{len(checks) - len(failed)} of {len(checks)} tasks are right; runs: {path}")
    if failed or won:
        raise typer.Exit(1)


def _attack_table(outcomes: list[Outcome]) -> Table:
    table = Table("task", "attack", "reward", "status", "what is tried", "verdict")
    for outcome in outcomes:
        table.add_row(
            escape(outcome.task),
            outcome.attack,
            _rewards([outcome.reward]),
            outcome.status,
            escape(outcome.about),
            escape(outcome.problem or outcome.exempt or "withstood"),
        )
    return table


def _rewards(rewards: list[float | None]) -> str:
    return " ".join("–" if reward is None else f"{reward:g}" for reward in rewards)
