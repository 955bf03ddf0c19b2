"""A run whose process that plays episodes is killed, and the same run gone on with."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from m2gym.backends.verl.checkpoint import FOLDER, LATEST
from m2gym.core.errors import InfraError
from tests.backends.verl.needs import config, verl_here
from tests.backends.verl.processes import gone, ray_processes

SAVED, KILLED_AT, STEPS = 2, 3, 4


@dataclass(frozen=True)
class Ran:
    """A run's configuration, what it told, how it ended, and whether its processes were gone."""

    config: Any
    rows: list[dict[str, Any]]
    end: Any
    gone: bool

    @property
    def out(self) -> Path:
        return Path(self.config.out)


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Steps with three examples, then two, saved every second; ended after the third."""
    verl_here()
    import m2gym

    before = ray_processes()
    own = {"advantage": "centred", "fraction": 0.0}
    stages = [
        {"steps": 1, "agent": {"shots": 3}, "lr": 1e-3, **own},
        {"agent": {"shots": 2}, "temperature": 1.3, "lr": 2e-4, **own},
    ]
    cfg = config(tmp_path_factory.mktemp("killed") / "run", stages=stages)
    cfg = cfg.replace(train={"steps": 1000, "save_every": SAVED, "keep": 1000})
    rows: list[dict[str, Any]] = []

    def told(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == KILLED_AT:
            (worker,) = ray_processes(b"AgentLoopWorker") - before
            os.kill(worker, signal.SIGKILL)

    with pytest.raises(InfraError) as error:
        m2gym.train(cfg, told=told)
    (Path(cfg.out) / FOLDER / LATEST).write_text(str(SAVED))  # it may have gone on until it died
    return Ran(cfg, rows, error.value, gone(before))


@pytest.fixture(scope="session")
def resumed(killed: Ran) -> Ran:
    """The same run to its fourth step."""
    import m2gym

    before = ray_processes()
    cfg = killed.config.replace(train={"steps": STEPS})
    rows: list[dict[str, Any]] = []
    result = m2gym.train(cfg, resume=True, told=rows.append)
    return Ran(cfg, rows, result, gone(before))
