"""Whole runs under verl: three steps in stages, and what goes wrong before and during one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from m2gym.backends.verl import versions
from m2gym.core.errors import InputError
from tests.backends.verl.needs import config, verl_here

MINUTES = 900


def ray_processes() -> set[int]:
    """Pids whose command line is Ray's."""
    found = set()
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            line = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if b"raylet" in line or b"gcs_server" in line or line.startswith(b"ray::"):
            found.add(int(place.name))
    return found


def gone(before: set[int], seconds: float = 30.0) -> bool:
    """Whether no Ray process is left that was not there before."""
    end = time.monotonic() + seconds
    while ray_processes() - before:
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


@pytest.mark.verl
@pytest.mark.timeout(MINUTES)
def test_three_steps_in_stages_end_to_end(tmp_path: Path) -> None:
    verl_here()
    import m2gym
    from m2gym.backends.local.hooked import load_causal

    before = ray_processes()
    stages = [
        {"steps": 1, "agent": {"shots": 3}, "advantage": "centred", "fraction": 0.0, "lr": 1e-3},
        {"agent": {"shots": 0}, "temperature": 1.3, "lr": 2e-4},
    ]
    rows: list[dict[str, Any]] = []
    result = m2gym.train(config(tmp_path / "run", stages=stages), told=rows.append)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["stage"] for row in rows] == [1, 2, 2]
    assert [row["lr"] for row in rows] == [1e-3, 2e-4, 2e-4]
    assert rows[0]["stage_ended"] == "1 steps"
    first = rows[0]
    assert first["engine_difference_max"] < 1e-4, "rollout and trainer are one model"
    assert first["episodes"] + first["masked_episodes"] == 8
    assert first["grad_norm"] > 0
    assert all(row["lag_max"] == 0 for row in rows)
    assert result.rows == tuple(rows)
    load_causal(str(result.model))
    assert (result.out / "verl.yaml").is_file()
    assert gone(before), "no Ray process is left"


@pytest.mark.verl
@pytest.mark.timeout(MINUTES)
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    verl_here()
    before = ray_processes()
    program = (
        "import sys; from pathlib import Path; import m2gym\n"
        "from tests.backends.verl.needs import config\n"
        "cfg = config(Path(sys.argv[1]))\n"
        "cfg = cfg.replace(train={'steps': 500})\n"
        "m2gym.train(cfg, told=lambda row: print('step', row['step'], flush=True))\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout is not None
    said = []
    for line in run.stdout:
        said.append(line)
        if line.startswith("step 1"):
            break
    else:
        pytest.fail("".join(said[-20:]))
    os.kill(run.pid, signal.SIGINT)
    rest = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert "KeyboardInterrupt" in rest
    assert gone(before), "no Ray process is left"


@pytest.mark.verl
def test_a_field_that_verl_does_not_know_is_told_before_anything_starts(tmp_path: Path) -> None:
    verl_here()
    import m2gym

    backend = {"id": "verl", "verl": {"trainer": {"balance_bath": False}}}
    with pytest.raises(InputError, match=r"did you mean 'trainer\.balance_batch'"):
        m2gym.train(config(tmp_path / "run", backend=backend))
    assert not (tmp_path / "run").exists()


@pytest.mark.verl
def test_a_field_of_verls_own_reaches_it(tmp_path: Path) -> None:
    verl_here()
    from m2gym.backends.verl.backend import VerlBackend

    backend = {"id": "verl", "verl": {"trainer": {"balance_batch": False}}}
    tree = VerlBackend().dry_run(config(tmp_path / "run", backend=backend))
    assert tree.trainer.balance_batch is False
    assert tree.actor_rollout_ref.rollout.name == "m2gym"


@pytest.mark.verl
def test_all_registrations_are_there_and_a_lost_one_is_told(tmp_path: Path) -> None:
    verl_here()
    from m2gym.backends.verl.backend import VerlBackend
    from m2gym.core.errors import InfraError

    VerlBackend().dry_run(config(tmp_path / "run"))
    from m2gym.backends.verl import api, plugin

    plugin.check_registered()
    kept = api.trainer_base.TRAINER_REGISTRY.pop("m2gym")
    try:
        with pytest.raises(InfraError, match="does not know our trainer"):
            plugin.check_registered()
    finally:
        api.trainer_base.TRAINER_REGISTRY["m2gym"] = kept


@pytest.mark.verl
def test_an_episode_without_a_real_reward_is_a_masked_row() -> None:
    verl_here()
    import numpy as np

    from m2gym.backends.verl.agent_loop import outputs
    from tests.backends.verl.test_parity import episodes

    good = episodes(np.random.default_rng(0))[0][0]
    assert all(not row.extra_fields["masked"] for row in outputs(good, 2048, 4))
    for spoilt, why in [
        (dataclasses.replace(good, reward=float("nan")), "reward nan"),
        (dataclasses.replace(good, reward=None, status="infra_error"), "infra_error"),
        (dataclasses.replace(good, completions=()), "no completion"),
    ]:
        (row,) = outputs(spoilt, 2048, 4)
        assert row.extra_fields["masked"] == why
        assert sum(row.response_mask) == 0
        assert row.reward_score == 0.0
        json.dumps(row.extra_fields)


def test_lacks_name_what_mends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name: None)
    found = list(versions.lacks())
    assert "verl is not installed" in found[0].what
    assert "setup-verl" in found[0].mend
    assert "TransferQueue" in found[1].what
    with pytest.raises(InputError, match="run: scripts/setup-verl"):
        versions.require_verl()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(versions.importlib.metadata, "version", lambda name: "0.8.0")
    (found,) = versions.lacks()
    assert "verl 0.8.0 is installed" in found.what
    assert "verl==0.9.1" in found.mend
