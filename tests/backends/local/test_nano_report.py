import pytest

from m2gym.backends.local.nano_report import plot, table


def run(arm, seed, zero, nll0=(), world=5):
    return {
        "arm": arm, "world": world, "tools": 1, "seed": seed, "nats": 11.0, "nll0": list(nll0),
        "after": {"0": zero, "3": 1.0}, "updates": 20, "cpu_seconds": 9.0,
        "curve": [[10, zero / 2], [20, zero]],
    }  # fmt: skip


RUNS = [
    run("zero", 0, 0.0), run("zero", 1, 0.95),
    run("3-2-0", 0, 1.0, [12, 9, 8]), run("3-2-0", 1, 0.0, [12, 11, 10], world=6),
]  # fmt: skip


def test_the_table_counts_runs_that_learnt():
    lines = table(RUNS).splitlines()
    assert len(lines) == 5
    zero = next(line for line in lines if "| zero |" in line)
    assert "1 of 2 [0.09, 0.91]" in zero
    assert "| – |" in zero
    first = next(line for line in lines if "| 5 (11.0) | 3-2-0 |" in line)
    assert "1 of 1" in first
    assert "12.0 → 9.7" in first


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot(RUNS, 5, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
