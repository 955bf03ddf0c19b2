"""A run whose process is killed ends with an error, and goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m2gym.backends.verl.backend import VerlBackend
from m2gym.core.errors import InputError
from tests.backends.verl.conftest import KILLED_AT, STEPS
from tests.backends.verl.needs import config, verl_here

pytestmark = [pytest.mark.verl, pytest.mark.timeout(3600)]

SAME = 1e-3
"""Relative bound of what differs after a resume: threads sum in another order."""


def test_what_cannot_be_resumed_is_told_before_anything_starts(tmp_path: Path) -> None:
    verl_here()
    with pytest.raises(InputError, match="holds no run to resume"):
        VerlBackend().train(config(tmp_path / "run"), resume=True)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "config.yaml").write_text(config(tmp_path / "run").text())
    with pytest.raises(InputError, match="holds a run already; resume it"):
        VerlBackend().train(config(tmp_path / "run"))
    ahead = config(tmp_path / "run").replace(algorithm={"schedule": {"lag": 1}})
    with pytest.raises(InputError, match="cannot resume a run whose generation runs ahead"):
        VerlBackend().train(ahead, resume=True)
    other = config(tmp_path / "run").replace(train={"lr": 0.5})
    with pytest.raises(InputError, match=r"had other values of train\.lr"):
        VerlBackend().train(other, resume=True)


def test_steps_go_through_the_stages(killed: Any) -> None:
    rows = killed.rows[:KILLED_AT]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["stage"] for row in rows] == [1, 2, 2]
    assert [row["lr"] for row in rows] == [1e-3, 2e-4, 2e-4]
    assert rows[0]["stage_ended"] == "1 steps"
    first = rows[0]
    assert first["engine_difference_max"] < 1e-4, "rollout and trainer are one model"
    assert first["episodes"] + first["masked_episodes"] == 8
    assert first["grad_norm"] > 0
    assert all(row["lag_max"] == 0 for row in rows)


def test_a_killed_agent_worker_ends_the_run_by_its_name(killed: Any) -> None:
    """verl itself would wait for its episodes for ever."""
    assert "agent_loop_worker_0" in str(killed.end)
    assert "died" in str(killed.end)
    assert "go on with --resume" in str(killed.end)
    assert killed.gone, "no Ray process is left"


def test_a_resumed_run_repeats_the_steps_after_its_checkpoint(killed: Any, resumed: Any) -> None:
    """Step 3 comes after the checkpoint of step 2: it is done again, with the same result."""
    assert [row["step"] for row in resumed.rows] == [3, 4]
    assert resumed.rows[0]["stage"] == 2
    once, again = killed.rows[KILLED_AT - 1], resumed.rows[0]
    assert once["grad_norm"] > 0
    for name in ("reward", "tokens", "lr", "grad_norm", "entropy", "loss"):
        assert again[name] == pytest.approx(once[name], rel=SAME, abs=1e-6), name


def test_its_folder_is_that_of_one_run(resumed: Any) -> None:
    from m2gym.backends.local.hooked import load_causal

    rows = [json.loads(line) for line in (resumed.out / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in resumed.end.rows] == list(range(1, STEPS + 1))
    load_causal(str(resumed.end.model))
    assert (resumed.out / "verl.yaml").is_file()
    assert resumed.gone, "no Ray process is left"


def test_a_run_resumed_after_its_last_step_has_its_weights(resumed: Any) -> None:
    """It may have been killed between its last checkpoint and its weights."""
    import shutil

    import m2gym
    from m2gym.backends.local.hooked import load_causal

    shutil.rmtree(resumed.end.model)
    again = m2gym.train(resumed.config, resume=True)
    assert [row["step"] for row in again.rows] == list(range(1, STEPS + 1))
    load_causal(str(again.model))
