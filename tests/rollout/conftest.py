import sys

import pytest

from m2gym.core.trajectory import Step, Trajectory
from m2gym.core.verdict import Verdict
from m2gym.rollout.run_info import RunConfig, new_info
from tests.rollout.tiny import install


@pytest.fixture
def record():
    def make(task="a", attempt=0, reward=1.0, status="ok", **more):
        fields = {
            "id": f"{task}-{attempt}",
            "env": "e",
            "task": task,
            "task_hash": "h",
            "agent": "gold",
            "attempt": attempt,
            "steps": (Step(action="echo é", observation='"quoted"\nline\u2028\x00'),),
            "verdict": Verdict(reward=reward, status=status),
        }
        return Trajectory(**{**fields, **more})

    return make


@pytest.fixture
def info():
    def make(**changes):
        config = {"env": "e", "agent": "gold", "tasks": ("a", "b"), "attempts": 2, **changes}
        return new_info(RunConfig(**config), dict.fromkeys(config["tasks"], "h"))

    return make


@pytest.fixture
def tiny(tmp_path_factory, monkeypatch, bwrap):
    """The tiny environment, in this process."""
    folder = tmp_path_factory.mktemp("tiny")
    variables = install(folder)
    monkeypatch.setenv("TINY_ROOT", variables["TINY_ROOT"])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    yield
    sys.modules.pop("tiny_env", None)
