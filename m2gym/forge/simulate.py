"""Discrete-event simulation of a schedule: throughput against distribution shift.

Episodes have a difficulty d, uniform on [0, 1], and a length drawn from a heavy-tailed law whose
median rises with d. ``slots`` engines generate, one trainer trains; the schedule between them is
the real `m2gym.forge.window.WindowedFifo`. The *shift* of a training batch is the Wasserstein-1
distance between its difficulties and the source's; a batch drawn at random has a shift above 0
too, which `random_shift` gives, so that the excess can be read.

The law of lengths (lognormal, sigma = 1), its slope over difficulty and all times are this
project's choice; the source gives no figures.

>>> strict = simulate(SimConfig(window=1, steps=20))
>>> greedy = simulate(SimConfig(window=1.0, steps=20))
>>> strict.throughput < greedy.throughput
True
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from m2gym.core.errors import InputError
from m2gym.forge.window import HeadPolicy, WindowedFifo, window_size

Law = Literal["lognormal", "pareto", "constant"]
Refill = Literal["continuous", "rounds"]


@dataclass(frozen=True)
class SimConfig:
    """One simulated run; times in units of the median length at difficulty 0.5.

    ``load``: time the trainer needs for a batch, relative to the time ``slots`` engines need to
    generate one. ``refill``: ``continuous`` admits whenever there is room; ``rounds`` admits N
    items at once and the next N when all are trained, as a queue filled once an iteration does.
    ``straggler_share`` of the episodes take ``straggler_factor`` times the median instead.
    """

    capacity: int = 64
    window: int | float = 0.3
    batch: int = 16
    slots: int | None = None
    steps: int = 200
    load: float = 0.5
    law: Law = "lognormal"
    sigma: float = 1.0
    slope: float = 1.4
    straggler_share: float = 0.0
    straggler_factor: float = 50.0
    refill: Refill = "continuous"
    on_blocked: HeadPolicy = "wait"
    patience: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class SimResult:
    """``throughput``: items trained a unit of time; ``shift``: mean Wasserstein-1 of batches."""

    throughput: float
    shift: float
    seconds: float
    batches: tuple[NDArray[np.float64], ...]
    metrics: dict[str, float]
    max_lag_versions: int


def wasserstein_uniform(difficulties: NDArray[np.float64]) -> float:
    """Wasserstein-1 distance of an empirical distribution from the uniform one on [0, 1], exact.

    >>> [round(wasserstein_uniform(np.array([x])), 3) for x in (0.5, 0.0)]
    [0.25, 0.5]
    """
    x = np.sort(difficulties)
    n = len(x)
    if n == 0:
        raise InputError("the shift of an empty batch is undefined")
    low, high = np.arange(n) / n, np.arange(1, n + 1) / n

    def integral(u: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sign(u - x) * (u - x) ** 2 / 2)

    return float(np.sum(integral(high) - integral(low)))


def random_shift(batch: int, draws: int = 2000, seed: int = 0) -> float:
    """Mean shift of a batch drawn at random from the source: the floor of any schedule."""
    rng = np.random.default_rng(seed)
    return float(np.mean([wasserstein_uniform(rng.random(batch)) for _ in range(draws)]))


def _length_sampler(config: SimConfig) -> Callable[[np.random.Generator, float], float]:
    def draw(rng: np.random.Generator, difficulty: float) -> float:
        median = float(np.exp(config.slope * (difficulty - 0.5)))
        straggles = rng.random() < config.straggler_share
        if config.law == "lognormal":
            noise = float(np.exp(config.sigma * rng.standard_normal()))
        elif config.law == "pareto":
            shape = 1.0 / config.sigma + 0.5
            noise = float((1 + rng.pareto(shape)) / 2 ** (1 / shape))
        else:
            noise = 1.0
        return config.straggler_factor if straggles else median * noise

    return draw


def mean_length(config: SimConfig, draws: int = 4000) -> float:
    """Mean episode length of the law, by sampling with a fixed seed."""
    rng, draw = np.random.default_rng(12345), _length_sampler(config)
    return float(np.mean([draw(rng, rng.random()) for _ in range(draws)]))


def simulate(config: SimConfig) -> SimResult:
    """Run ``config.steps`` training batches."""
    if config.law not in ("lognormal", "pareto", "constant"):
        raise InputError(f"law is lognormal, pareto or constant, got {config.law!r}")
    if config.refill == "rounds" and config.capacity % config.batch:
        raise InputError(
            f"rounds of {config.capacity} items do not divide into batches of {config.batch}"
        )
    fifo: WindowedFifo[float] = WindowedFifo(
        config.capacity,
        config.window,
        config.batch,
        on_blocked=config.on_blocked,
        patience=config.patience,
    )
    return _Run(config, fifo).go()


class _Run:
    def __init__(self, config: SimConfig, fifo: WindowedFifo[float]) -> None:
        self.config, self.fifo = config, fifo
        self.slots = config.slots or config.capacity
        self.rng = np.random.default_rng(config.seed)
        self.draw = _length_sampler(config)
        self.train_time = config.load * mean_length(config) * config.batch / self.slots
        self.events: list[tuple[float, int, str, int]] = []
        self.sequence = 0
        self.free = self.slots
        self.waiting: list[int] = []
        self.difficulty: dict[int, float] = {}
        self.training: int | None = None
        self.batches: list[NDArray[np.float64]] = []

    def go(self) -> SimResult:
        now = 0.0
        self._admit(now)
        self._poll(now)
        while len(self.batches) < self.config.steps or self.training is not None:
            now, _, kind, index = heapq.heappop(self.events)
            if kind == "finish":
                self._finish(index, now)
            elif kind == "trained":
                self.fifo.release(index, now)
                self.training = None
            else:
                action = self.fifo.check_head(now)
                if action is not None and action.kind == "cut":
                    self._finish(action.index, now)
                elif action is not None:
                    self.free += 1
            self._admit(now)
            self._poll(now)
        return SimResult(
            throughput=self.fifo.metrics.taken / now,
            shift=float(np.mean([wasserstein_uniform(batch) for batch in self.batches])),
            seconds=now,
            batches=tuple(self.batches),
            metrics=self.fifo.metrics.summary(),
            max_lag_versions=self.fifo.max_lag_versions,
        )

    def _push(self, time: float, kind: str, index: int) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (time, self.sequence, kind, index))

    def _admit(self, now: float) -> None:
        fifo = self.fifo
        if self.config.refill == "continuous" or fifo.room == fifo.capacity:
            for _ in range(fifo.room):
                index = fifo.admit(now)
                self.difficulty[index] = float(self.rng.random())
                self.waiting.append(index)
        while self.free and self.waiting:
            index = self.waiting.pop(0)
            fifo.start(index, now)
            self.free -= 1
            self._push(now + self.draw(self.rng, self.difficulty[index]), "finish", index)

    def _finish(self, index: int, now: float) -> None:
        state = self.fifo.state(index)
        if state is not None and state.value == "running":
            self.fifo.finish(index, self.difficulty[index], now)
            self.free += 1

    def _poll(self, now: float) -> None:
        if self.training is None and len(self.batches) < self.config.steps:
            batch = self.fifo.poll(now)
            if batch is not None:
                self.training = batch.number
                self.batches.append(np.array([item.values[0] for item in batch.items]))
                self._push(now + self.train_time, "trained", batch.number)
        deadline = self.fifo.head_deadline
        if deadline is not None:
            self._push(max(deadline, now), "head", -1)


def sweep(
    config: SimConfig, windows: Iterable[int | float], seeds: Iterable[int] = range(20)
) -> list[dict[str, float]]:
    """One row a window: means over the seeds and 95 % half-widths, beside greedy's (W = N).

    ``shift_of_greedy`` compares the shifts themselves, ``excess_shift_of_greedy`` their parts above
    `random_shift`; the latter means little where greedy's own excess is near 0.
    """
    seeds = list(seeds)
    sizes = [window_size(config.capacity, window) for window in windows]
    runs = {
        window: [simulate(replace(config, window=window, seed=seed)) for seed in seeds]
        for window in [*sizes, config.capacity]
    }
    greedy = runs[config.capacity]
    floor = random_shift(config.batch)
    rows = []
    for window, results in runs.items():
        speed = np.array([r.throughput for r in results])
        shift = np.array([r.shift for r in results])
        ratio = speed / np.array([r.throughput for r in greedy])
        relative = shift / np.array([r.shift for r in greedy])
        greedy_excess = float(np.mean([r.shift for r in greedy])) - floor
        half = 1.96 / np.sqrt(len(seeds))
        rows.append(
            {
                "window": float(window),
                "throughput": float(speed.mean()),
                "of_greedy": float(ratio.mean()),
                "of_greedy_ci": float(half * ratio.std(ddof=1)) if len(seeds) > 1 else 0.0,
                "shift": float(shift.mean()),
                "shift_of_greedy": float(relative.mean()),
                "shift_of_greedy_ci": float(half * relative.std(ddof=1)) if len(seeds) > 1 else 0.0,
                "excess_shift_of_greedy": (float(shift.mean()) - floor) / greedy_excess,
                "lag_versions_mean": float(
                    np.mean([r.metrics["lag_versions_mean"] for r in results])
                ),
                "lag_versions_max": float(max(r.metrics["lag_versions_max"] for r in results)),
                "lag_bound": float(results[0].max_lag_versions),
                "blocked": float(np.mean([r.metrics["blocked"] / r.seconds for r in results])),
                "idle": float(np.mean([r.metrics["idle"] / r.seconds for r in results])),
            }
        )
    return rows


def plot(sweeps: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path) -> None:
    """Throughput against distribution shift, of greedy's: a line a queue, a point a window.

    ``sweeps``: rows of `sweep` by the queue's name. Open circle: W = 1; square: W = 0.3 N; filled
    circle: greedy. Needs matplotlib (extra ``report``).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, rows in sweeps.items():
        points = sorted(rows, key=lambda row: row["window"])
        x = [row["shift_of_greedy"] for row in points]
        y = [row["of_greedy"] for row in points]
        (line,) = axes.plot(x, y, ".-", label=name)
        axes.plot(x[0], y[0], "o", mfc="white", color=line.get_color())
        axes.plot(x[-1], y[-1], "o", color=line.get_color())
        marked = min(
            range(len(x)), key=lambda n: abs(points[n]["window"] - points[-1]["window"] * 0.3)
        )
        axes.plot(x[marked], y[marked], "s", color=line.get_color())
    axes.axvline(0.5, color="grey", lw=0.8, ls=":")
    axes.axhline(0.9, color="grey", lw=0.8, ls=":")
    axes.set_xlabel("distribution shift of greedy's (mean Wasserstein-1 of a batch)")
    axes.set_ylabel("throughput of greedy's")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
