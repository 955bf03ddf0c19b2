"""The simulator runs the real window; strict, windowed and greedy order as the source says."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from m2gym.core.errors import InputError
from m2gym.forge import simulate as simulate_module
from m2gym.forge.simulate import (
    SimConfig,
    mean_length,
    plot,
    random_shift,
    simulate,
    sweep,
    wasserstein_uniform,
)


def test_doctest():
    assert doctest.testmod(simulate_module).failed == 0


def test_wasserstein_matches_a_fine_grid():
    x = np.random.default_rng(0).random(7)
    u = (np.arange(200_000) + 0.5) / 200_000
    quantile = np.sort(x)[np.minimum((u * 7).astype(int), 6)]
    assert wasserstein_uniform(x) == pytest.approx(np.abs(quantile - u).mean(), abs=1e-5)


def test_same_seed_same_run():
    a, b = simulate(SimConfig(steps=15, seed=3)), simulate(SimConfig(steps=15, seed=3))
    assert a.seconds == b.seconds
    assert all((x == y).all() for x, y in zip(a.batches, b.batches, strict=True))


def test_worked_example_bound_holds_in_a_run():
    result = simulate(SimConfig(capacity=8, window=4, batch=1, steps=2000))
    assert result.max_lag_versions == 10
    assert result.metrics["lag_versions_max"] <= 10
    assert result.metrics["order_distortion_max"] <= 3


def test_windowed_lies_between_strict_and_greedy():
    rows = sweep(SimConfig(refill="rounds", steps=60), [1, 0.3], seeds=range(6))
    strict, windowed, greedy = rows
    assert strict["throughput"] < windowed["throughput"] <= greedy["throughput"] * 1.02
    assert strict["shift"] < windowed["shift"] < greedy["shift"]


def test_strict_trains_on_the_source_in_order():
    result = simulate(SimConfig(window=1, steps=200))
    assert result.metrics["order_distortion_max"] == 0
    assert result.shift == pytest.approx(random_shift(16), abs=0.01)


@pytest.mark.parametrize("policy", ["cut", "drop"])
def test_head_policies_free_a_run_of_its_stragglers(policy):
    base = SimConfig(window=0.3, steps=60, straggler_share=0.02)
    waits = simulate(base)
    acts = simulate(SimConfig(**{**base.__dict__, "on_blocked": policy, "patience": 1.0}))
    assert acts.throughput > waits.throughput
    assert acts.metrics["cut" if policy == "cut" else "dropped"] > 0


@pytest.mark.parametrize("law", ["pareto", "constant"])
def test_other_laws(law):
    result = simulate(SimConfig(law=law, steps=20))
    assert np.isfinite(result.throughput)
    assert mean_length(SimConfig(law=law)) > 0


def test_plot_writes_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'report'")
    plot({"small": sweep(SimConfig(steps=5), [1, 0.5], seeds=[0, 1])}, tmp_path / "w.png")
    assert (tmp_path / "w.png").stat().st_size > 1000


def test_bad_configuration():
    with pytest.raises(InputError, match="law"):
        simulate(SimConfig(law="zipf"))
    with pytest.raises(InputError, match="rounds"):
        simulate(SimConfig(refill="rounds", capacity=60, batch=16))
