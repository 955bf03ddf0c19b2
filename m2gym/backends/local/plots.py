"""A run's curves as a picture, and those of several seeds in one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError

Row = dict[str, Any]

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("reward", ("reward", "held_out")),
    ("behaviour", ("accuracy", "valid_calls", "finish_rate")),
    ("nll0, nats", ("nll0",)),
    ("entropy, nats", ("entropy",)),
    ("KL, nats", ("kl_reference", "kl_old")),
    ("length, tokens", ("length",)),
    ("share clipped", ("clipped_high", "clipped_low")),
    ("staleness, updates", ("lag_mean", "lag_max")),
)

TIMES = ("engine", "environment", "gradients", "optimiser", "probe", "evaluate", "other")
"""Parts of a step's time, from the bottom; see `times`."""

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t at 97.5 % for 1 to 9 degrees of freedom."""


def times(row: Row) -> dict[str, float]:
    """Seconds of a step by part; together they are ``seconds``.

    ``environment``: waiting for boxes while no token was computed; ``other`` is the pool, packing,
    the log and new weights.
    """
    found = {name: float(row.get(f"seconds_{name}", 0.0)) for name in TIMES}
    found["environment"] = max(0.0, row.get("seconds_generate", 0.0) - found["engine"])
    update = row.get("seconds_update", 0.0)
    found["other"] += max(0.0, update - found["gradients"] - found["optimiser"])
    return found


def share_outside(rows: Sequence[Row]) -> float:
    """Share of the steps' time outside generation, environment, forward and backward. Evaluations
    are generation too, of another kind, and count in neither."""
    spent = [times(row) for row in rows]
    within = sum(t["engine"] + t["environment"] + t["gradients"] for t in spent)
    outside = sum(t["optimiser"] + t["probe"] + t["other"] for t in spent)
    return outside / (within + outside) if within + outside else 0.0


def plot_run(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Draw one run's metrics, and the time of its steps by part, as PNG."""
    figure_kind = _figure()
    figure = figure_kind(figsize=(11, 8))
    figure.suptitle(title)
    axes = figure.subplots(3, 3)
    steps = [row["step"] for row in rows]
    for ax, (name, keys) in zip(axes.flat, PANELS, strict=False):
        for key in keys:
            points = [(r["step"], r[key]) for r in rows if isinstance(r.get(key), int | float)]
            if points:
                ax.plot(*zip(*points, strict=True), marker=".", label=key)
        _stages(ax, rows)
        ax.set_title(name, fontsize=9)
        if ax.lines:
            ax.legend(fontsize=7)
    spent = [times(row) for row in rows]
    axes.flat[-1].stackplot(steps, [[t[n] for t in spent] for n in TIMES], labels=TIMES)
    axes.flat[-1].set_title("seconds a step", fontsize=9)
    axes.flat[-1].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def plot_seeds(runs: Sequence[Sequence[Row]], path: Path, title: str = "") -> None:
    """Draw reward, nll0 and held-out reward of several seeds: each thin, their mean thick."""
    figure_kind = _figure()
    figure = figure_kind(figsize=(11, 3.4))
    figure.suptitle(title, fontsize=10)
    panels = ("reward", "nll0", "held_out")
    for ax, key in zip(figure.subplots(1, 3), panels, strict=True):
        lines = [_line(rows, key) for rows in runs]
        for line in lines:
            ax.plot(*zip(*line, strict=True), lw=0.8, alpha=0.5, marker=".") if line else None
        shared = sorted(set.intersection(*({x for x, _ in line} for line in lines)))
        means = [statistics.fmean(dict(line)[x] for line in lines) for x in shared]
        ax.plot(shared, means, lw=2, color="black")
        _stages(ax, runs[0])
        name = {"held_out": "held-out reward, as in the last stage"}.get(key, key)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("updates", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def gains(runs: Sequence[Sequence[Row]]) -> list[float]:
    """Held-out reward at the end less that before, of each run.

    Raises:
        InputError: a run without both (``train.eval_every`` measures them).
    """
    found = []
    for rows in runs:
        line = dict(_line(rows, "held_out"))
        if len(line) < 2:
            raise InputError("a gain needs held-out rewards: set train.eval_every")
        found.append(line[max(line)] - line[0])
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean's 95 % interval by Student's t.

    >>> [round(x, 2) for x in interval([0.5, 0.6, 0.7])]
    [0.35, 0.85]
    """
    n = len(values)
    if not 2 <= n <= len(T_95) + 1:
        raise InputError(f"an interval is of 2 to {len(T_95) + 1} values, got {n}")
    half = T_95[n - 2] * statistics.stdev(values) / math.sqrt(n)
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def _line(rows: Sequence[Row], key: str) -> list[tuple[int, float]]:
    first = rows[0].get(f"{key}_before") if rows else None
    line = [(0, float(first))] if isinstance(first, int | float) else []
    return line + [(r["step"], r[key]) for r in rows if isinstance(r.get(key), int | float)]


def _stages(ax: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        if "stage_ended" in row:
            ax.axvline(row["step"] + 0.5, color="grey", lw=0.7, ls=":")


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError("plots need matplotlib: pip install 'm2gym[report]'") from error
    return Figure
