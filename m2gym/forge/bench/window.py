"""Windowed FIFO against strict and greedy order, in simulation."""

from __future__ import annotations

from pathlib import Path

from m2gym.forge.bench.row import Row, row
from m2gym.forge.simulate import SimConfig, plot, sweep

CASES = {
    "rounds of N=64, B=16": SimConfig(refill="rounds", load=0.2, steps=64),
    "rounds, 2 % stragglers of 50x": SimConfig(
        refill="rounds", load=0.2, steps=64, straggler_share=0.02
    ),
    "rounds of N=256, B=16": SimConfig(refill="rounds", capacity=256, load=0.2, steps=64),
    "rounds of N=256, B=64": SimConfig(refill="rounds", capacity=256, batch=64, load=0.2, steps=64),
    "rounds of N=256, B=64, 2 % stragglers of 50x": SimConfig(
        refill="rounds", capacity=256, batch=64, load=0.2, steps=64, straggler_share=0.02
    ),
    "rounds of N=512, B=128": SimConfig(
        refill="rounds", capacity=512, batch=128, load=0.2, steps=64
    ),
    "continuous refill, N=256, B=64": SimConfig(capacity=256, batch=64, load=0.2, steps=64),
    "continuous refill, N=64, B=16": SimConfig(steps=200),
    "continuous refill, N=256, 64 at once, B=16": SimConfig(steps=200, capacity=256, slots=64),
    "continuous, 2 % stragglers of 50x": SimConfig(steps=200, straggler_share=0.02),
    "continuous, stragglers, head cut at 2": SimConfig(
        steps=200, straggler_share=0.02, on_blocked="cut", patience=2.0
    ),
    "continuous, stragglers, head dropped at 2": SimConfig(
        steps=200, straggler_share=0.02, on_blocked="drop", patience=2.0
    ),
}


def bench_window(seeds: int = 20) -> list[Row]:
    """Windowed FIFO at W = 0.3 N against greedy; strict beside them."""
    rows = []
    for name, config in CASES.items():
        strict, windowed, greedy = sweep(config, [1, 0.3], seeds=range(seeds))
        for label, figures in (("W=1", strict), ("W=0.3N", windowed)):
            note = (
                f"{figures['of_greedy']:.3f}±{figures['of_greedy_ci']:.3f} of greedy's throughput,"
                f" {figures['shift_of_greedy']:.2f}±{figures['shift_of_greedy_ci']:.2f} of its "
                f"shift, {figures['excess_shift_of_greedy']:.2f} of its shift above a random "
                f"batch's; lag {figures['lag_versions_mean']:.1f} mean, "
                f"{figures['lag_versions_max']:.0f} max, bound {figures['lag_bound']:.0f}"
            )
            rows.append(
                row("window throughput", f"{name}; {label}", figures["throughput"],
                    greedy["throughput"], "items a unit of time", note, less=False)
            )  # fmt: skip
    return rows


DRAWN = (
    "rounds of N=256, B=64",
    "rounds of N=256, B=64, 2 % stragglers of 50x",
    "rounds of N=64, B=16",
    "continuous refill, N=256, B=64",
    "continuous refill, N=64, B=16",
)


def plot_window(path: Path, seeds: int = 20) -> None:
    """Throughput against shift for windows from strict to greedy, seeds 0 to ``seeds`` - 1."""
    windows = [1, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7]
    plot({name: sweep(CASES[name], windows, range(seeds)) for name in DRAWN}, path)
