"""What goes wrong before a run, and Ctrl-C during one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m2gym.backends.verl import versions
from m2gym.core.errors import InputError
from tests.backends.verl.needs import config, verl_here
from tests.backends.verl.processes import gone, ray_processes

SECONDS = 1800


@pytest.mark.verl
@pytest.mark.timeout(SECONDS)
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
        # A shell's background job is started with SIGINT ignored, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    rest = run.communicate(timeout=600)[0]
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
def test_an_environment_that_only_this_process_knows_is_refused(tmp_path: Path) -> None:
    verl_here()
    import m2gym

    task = m2gym.Task(id="t", instruction="?", rewards=[m2gym.RewardSpec(name="test-script")])
    m2gym.register("known-here-only", tasks=[task])
    wanted = config(tmp_path / "run", env={"id": "known-here-only"}, agent={"id": "react"})
    with pytest.raises(InputError, match=r"known-here-only.*entry points m2gym\.envs"):
        m2gym.train(wanted)
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
