"""The configuration: defaults, YAML, settings, and errors that name the nearest field."""

from __future__ import annotations

import pytest

from m2gym.backends.train_config import BackendConfig, TrainConfig, local_config
from m2gym.core.errors import InputError

YAML = """
env: {id: tool-use, taskset: reasoning-gym, tasks: [chain_sum, countdown]}
agent: {id: icrl, shots: [3, 2, 0]}
model: folder
algorithm: {id: cispo, epsilon_high: 3.0, schedule: {id: windowed-fifo, window: 0.3}}
backend: {id: local}
train: {steps: 60, groups: 8, group_size: 8, lr: 1.0e-4}
"""


def test_a_file_its_settings_and_its_text(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(YAML)
    config = TrainConfig.load(
        path, ["train.lr=0.5", "backend.device=cpu", "algorithm.schedule.lag=2"]
    )
    assert config.train.lr == 0.5
    assert config.algorithm.schedule.lag == 2
    assert config.env.settings == {"taskset": "reasoning-gym"}
    assert config.agent.settings == {"shots": [3, 2, 0]}
    assert local_config(config.backend).device == "cpu"
    (tmp_path / "whole.yaml").write_text(config.text())
    assert TrainConfig.load(tmp_path / "whole.yaml") == config


def test_replace_changes_fields_of_a_part_or_the_whole_part():
    config = TrainConfig(env="e", model="m", backend={"id": "local", "rows": 3}, train={"lr": 0.1})
    other = config.replace(train={"steps": 2}, backend={"id": "verl"})
    assert (other.train.lr, other.train.steps) == (0.1, 2)
    assert other.backend == BackendConfig(id="verl")
    assert config.replace(backend={"rows": 4}).backend.settings == {"rows": 4}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.step=3", r"unknown field train\.step; did you mean 'steps'"),
        ("algorithm.schedule.windows=1", "did you mean 'window'"),
        ("optimiser=3", "unknown field optimiser"),
        ("train.steps=0", r"train\.steps: .*greater than or equal to 1, got 0"),
        ("algorithm.id=ppo", r"algorithm\.id: .*'cispo'"),
        ("train.steps", "a.b=c"),
        ("model.x=1", "has no fields"),
        ("train.temperature=.inf", r"train\.temperature: .*finite"),
        ("train.lr=.nan", r"train\.lr: "),
        ("train.betas=[0.9, 1]", r"train\.betas\.1: .*less than 1, got 1"),
        ("log=tensorboard", r"log: expected a list, \[value\], got 'tensorboard'"),
        ("train=3", r"train: expected fields, .*got 3"),
    ],
)
def test_errors_name_the_field(tmp_path, setting, says):
    path = tmp_path / "c.yaml"
    path.write_text(YAML)
    with pytest.raises(InputError, match=says):
        TrainConfig.load(path, [setting])


def test_a_field_that_is_missing():
    with pytest.raises(InputError, match=r"^model is missing$"):
        TrainConfig(env="tool-use")


def test_the_backends_own_fields_are_checked():
    with pytest.raises(InputError, match=r"unknown field backend\.row; did you mean 'rows'"):
        local_config(BackendConfig(id="local", row=3))


def test_a_file_that_is_not_there_or_not_yaml(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        TrainConfig.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        TrainConfig.load(tmp_path / "bad.yaml")
