"""What the runs of m2-nano's experiment say: a table by world and arm, and curves."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from m2gym.report.stats import wilson

SKILL = 0.9
"""Success without examples from which a run has learnt the skill."""

Run = Mapping[str, Any]
Key = tuple[int, int, str]
"""World, its tools, arm."""


def by_arm(runs: Iterable[Run]) -> dict[Key, list[Run]]:
    """Runs by world and arm."""
    found: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        found[run["world"], run["tools"], run["arm"]].append(run)
    return dict(sorted(found.items()))


def table(runs: Iterable[Run]) -> str:
    """Markdown: of each world and arm the runs that learnt the skill (Wilson's interval), the mean
    success without examples (bootstrap interval) and with three, ``nll0`` at the first update with
    examples and over the last five (medians of runs), updates and CPU seconds (means)."""
    lines = [
        "| world (nats) | arm | learnt | zero-shot, after | 3 examples | nll0 | updates; CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for (world, tools, arm), mine in by_arm(runs).items():
        zero = [_after(run, 0) for run in mine]
        learnt = sum(share >= SKILL for share in zero)
        low, high = wilson(learnt / len(zero), len(zero))
        mean = f"{statistics.fmean(zero):.2f}"
        if len(zero) > 1:
            mean += " [{:.2f}, {:.2f}]".format(*_bootstrap(zero))
        nll0 = [run["nll0"] for run in mine if run["nll0"]]
        fell = "–"
        if nll0:
            ends = (statistics.median(n[0] for n in nll0), statistics.median(map(_end, nll0)))
            fell = "{:.1f} → {:.1f}".format(*ends)
        nats = statistics.fmean(run["nats"] for run in mine)
        name = f"{world} ({nats:.1f})" + (f", {tools} tools" if tools > 1 else "")
        three = statistics.fmean(_after(run, 3) for run in mine)
        spent = (
            statistics.fmean(run["updates"] for run in mine),
            statistics.fmean(run["cpu_seconds"] for run in mine),
        )
        lines.append(
            f"| {name} | {arm} | {learnt} of {len(mine)} [{low:.2f}, {high:.2f}] | {mean} | "
            f"{three:.2f} | {fell} | {spent[0]:.0f}; {spent[1]:.0f} |"
        )
    return "\n".join(lines)


def plot(runs: Iterable[Run], world: int, path: Path) -> None:
    """``nll0`` of every run of a world while there are examples (thick: median), and the mean
    held-out reward without examples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = {arm: mine for (w, _, arm), mine in by_arm(runs).items() if w == world}
    for number, (arm, mine) in enumerate(arms.items()):
        colour = f"C{number}"
        lines = [run["nll0"] for run in mine if run["nll0"]]
        for line in lines:
            left.plot(range(1, len(line) + 1), line, color=colour, alpha=0.2, lw=0.8)
        if lines:
            middle = [statistics.median(values) for values in zip(*lines, strict=False)]
            left.plot(range(1, len(middle) + 1), middle, color=colour, lw=2, label=arm)
        steps = sorted({step for run in mine for step, _ in run["curve"]})
        means = [statistics.fmean(_held_out(run, step) for run in mine) for step in steps]
        right.plot([0, *steps], [0.0, *means], color=colour, lw=2, label=f"{arm} ({len(mine)})")
    left.set(xlabel="update with examples", ylabel="nll0 (nats)", ylim=(6, 20))
    right.set(xlabel="update", ylabel="held-out reward without examples", ylim=(-0.03, 1.03))
    for ax in (left, right):
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _bootstrap(values: list[float]) -> tuple[float, float]:
    """95 % of the means of samples with replacement; shares are far from normal."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.percentile(drawn.mean(1), [2.5, 97.5])
    return float(low), float(high)


def _after(run: Run, shots: int) -> float:
    after = run["after"]
    return float(after[shots] if shots in after else after[str(shots)])


def _end(nll0: list[float]) -> float:
    return statistics.fmean(nll0[-5:])


def _held_out(run: Run, step: int) -> float:
    """At an update; a run that has ended stays where it was."""
    known = [value for at, value in run["curve"] if at <= step]
    return float(known[-1]) if known else 0.0
