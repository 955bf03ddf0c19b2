"""``m2gym train``: a configuration, its settings, and a line a step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json

SHOWN = ("reward", "length", "entropy", "clipped_high", "lag_max", "merge", "grad_norm")


def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see docs/training.md.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A field: a.b=c (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the whole configuration, and stop.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    out: options.Out = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a model in an environment."""
    from m2gym.backends.train_config import TrainConfig
    from m2gym.backends.training import train as run

    wanted = TrainConfig.load(config, settings or [])
    if out is not None:
        wanted = wanted.replace(out=out)
    if dry_run:
        if json:
            show_json(wanted.model_dump(mode="json"))
        else:
            show(wanted.text().rstrip())
        return
    result = run(wanted, resume=resume, told=lambda row: note(line(row, wanted.train.steps)))
    if json:
        show_json({"out": str(result.out), "steps": list(result.rows), "held_out": result.held_out})
        return
    show(f"{len(result.rows)} steps in {result.out}; the weights: {result.model}")


def line(row: dict[str, Any], steps: int) -> str:
    """A step for people; anomalies below it."""
    shown = [f"{name} {row[name]:.4g}" for name in SHOWN if name in row]
    if "held_out" in row:
        shown.append(f"held_out {row['held_out']:.4g}")
    text = f"step {row['step']}/{steps} · {' · '.join(shown)} · {row['seconds']:.1f} s"
    return "\n".join([text, *(f"  ! {told}" for told in row["anomalies"])])
