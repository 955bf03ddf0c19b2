"""``m2gym train``: a configuration, its settings, and a line a step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, stopped
from m2gym.core.errors import InputError

if TYPE_CHECKING:
    from m2gym.backends.local.trainer import TrainResult
    from m2gym.backends.train_config import TrainConfig

SHOWN = ("reward", "length", "entropy", "clipped_high", "lag_max", "merge", "grad_norm", "nll0")


def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see docs/training.md.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A field: a.b=c (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the whole configuration, and stop.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs with seeds 0, 1 …, one after another.")
    ] = 1,
    out: options.Out = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a model in an environment."""
    from m2gym.backends.train_config import TrainConfig
    from m2gym.backends.training import check
    from m2gym.rollout.evaluation import next_folder

    wanted = TrainConfig.load(config, settings or [])
    if out is not None:
        wanted = wanted.replace(out=out)
    if resume and wanted.out is None:
        raise InputError("--resume goes on with the run in a folder: name it with --out")
    if dry_run:
        check(wanted)
        theirs, backend = _translated(wanted), wanted.backend.id
        if json:
            show_json(wanted.model_dump(mode="json") | ({backend: theirs} if theirs else {}))
        else:
            show(wanted.text().rstrip())
            for name, value in theirs.items():
                show(f"# {backend}: {name}={value}")
        return
    if seeds > 1:
        _seeds(wanted, seeds, json)
        return
    if wanted.out is None:
        wanted = wanted.replace(out=next_folder(wanted.env.id, "train"))
    result = _run(wanted, resume, f"go on with --out {wanted.out} --resume")
    if json:
        show_json({"out": str(result.out), "steps": list(result.rows), "held_out": result.held_out})
        return
    show(f"{len(result.rows)} steps in {result.out}; the weights: {result.model}")


def _translated(config: TrainConfig) -> dict[str, Any]:
    """What a backend makes of the configuration, where it has one of its own."""
    from m2gym.core.registry import BACKENDS

    backend = BACKENDS.get(config.backend.id)()
    translated: dict[str, Any] = (
        backend.translated(config) if hasattr(backend, "translated") else {}
    )
    return translated


def _run(config: TrainConfig, resume: bool, onward: str) -> TrainResult:
    """One run, shown live at a terminal and a line a step elsewhere; ``onward`` says how to go on
    with it after Ctrl-C."""
    from m2gym.backends.training import train as run
    from m2gym.cli.train_view import TrainView

    steps, done = config.train.steps, 0

    def told(row: dict[str, Any]) -> None:
        nonlocal done
        done = row["step"]
        if view is None:
            note(line(row, steps))
        else:
            view.add(row)

    view = TrainView(steps) if sys.stderr.isatty() else None
    try:
        if view is None:
            return run(config, resume=resume, told=told)
        with view:
            return run(config, resume=resume, told=told)
    except KeyboardInterrupt:
        begun = config.out is not None and (config.out / "config.yaml").exists()
        after = f"after step {done}" if done else "before a step was done"
        stopped(f"{after}; nothing is lost: {onward}" if begun else "nothing was begun")


def _seeds(config: TrainConfig, count: int, json: bool) -> None:
    """Several runs below one folder, and the interval of what they gained; one that is there
    already goes on."""
    from m2gym.backends.local.plots import gains, interval, plot_seeds

    if config.out is None:
        raise InputError("several seeds need a folder: --out")
    if not config.train.eval_every:
        raise InputError("several seeds are compared by held-out tasks: set train.eval_every")
    runs = []
    for seed in range(count):
        folder = config.out / f"seed-{seed}"
        one = config.replace(out=folder, train={"seed": seed})
        begun = (folder / "config.yaml").exists()
        runs.append(_run(one, begun, "the same command goes on").rows)
    found = gains(runs)
    low, high = interval(found)
    plot_seeds(runs, config.out / "seeds.png", f"{config.model}, {config.env.id}, {count} seeds")
    mean = sum(found) / count
    if json:
        show_json({"gains": found, "mean": mean, "interval": [low, high]})
        return
    each = ", ".join(f"{gain:+.3f}" for gain in found)
    show(f"held-out reward {each}: mean {mean:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}]")
    show(f"plot: {config.out / 'seeds.png'}")


def line(row: dict[str, Any], steps: int) -> str:
    """A step for people; anomalies below it."""
    shown = [f"{name} {row[name]:.4g}" for name in SHOWN if name in row]
    if "held_out" in row:
        shown.append(f"held_out {row['held_out']:.4g}")
    text = f"step {row['step']}/{steps} · {' · '.join(shown)} · {row['seconds']:.1f} s"
    return "\n".join([text, *(f"  ! {told}" for told in row["anomalies"])])
