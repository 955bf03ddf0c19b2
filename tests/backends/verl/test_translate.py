"""From our configuration to verl's fields; nothing here needs verl."""

import json
from typing import Any

import pytest

import m2gym
from m2gym.backends.train_config import BackendConfig
from m2gym.backends.verl.translate import fields, known, refuse, verl_config
from m2gym.core.errors import InputError


def config(**own: Any) -> m2gym.TrainConfig:
    return m2gym.TrainConfig(**{"env": "tool-use", "model": "m", "backend": {"id": "verl"}, **own})


def translated(**own: Any) -> dict[str, Any]:
    return fields(config(**own), folder="/m", context=512, tasks=("a", "b"))


def test_settings_arrive_under_verls_names() -> None:
    found = translated(
        train={"steps": 7, "groups": 4, "group_size": 3, "lr": 0.5, "clip": 0.25, "seed": 9},
        algorithm={"schedule": {"lag": 1, "window": 0.5}},
    )
    assert found["trainer.total_training_steps"] == 7
    assert found["actor_rollout_ref.rollout.n"] == 3
    assert found["actor_rollout_ref.actor.optim.lr"] == 0.5
    assert found["actor_rollout_ref.actor.optim.clip_grad"] == 0.25
    kwargs = found["trainer.v1.sampler.sampler_kwargs"]
    assert kwargs == {"capacity": 8, "window": 4, "batch": 4}
    assert found["data.m2gym"] == {"tasks": ["a", "b"], "seed": 9}
    again = m2gym.TrainConfig(**json.loads(found["m2gym"]["config"]))
    assert again.train.lr == 0.5


def test_kl_asks_for_verls_reference() -> None:
    assert not translated()["actor_rollout_ref.actor.use_kl_loss"]
    kl = translated(algorithm={"id": "grpo", "kl": 0.1})
    assert kl["actor_rollout_ref.actor.use_kl_loss"]


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"algorithm": {"process": {}}}, "algorithm.process"),
        ({"algorithm": {"half_life": 2.0}}, "algorithm.half_life"),
        ({"algorithm": {"importance_cap": 2.0}}, "algorithm.importance_cap"),
        ({"train": {"eval_every": 5}}, "train.eval_every"),
        ({"train": {"stop_at": 0.5}}, "train.stop_at"),
        ({"log": ["wandb"]}, "log"),
        (
            {"algorithm": {"id": "grpo", "kl": 0.1}, "stages": [{"steps": 1}, {}]},
            "stages with kl and reset_reference",
        ),
        ({"algorithm": {"id": "cispo", "kl": 0.1}}, "kl"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(own: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        refuse(config(**own))


def test_stages_without_kl_pass() -> None:
    refuse(config(stages=[{"steps": 1, "temperature": 1.5}, {"lr": 0.1}]))


def test_an_unknown_field_of_the_backend_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'micro_tokens'"):
        verl_config(BackendConfig(id="verl", micro_token=4))


def test_an_unknown_field_of_verl_names_the_nearest() -> None:
    tree = {"trainer": {"nnodes": 1, "v1": {"mode": "x"}}, "model": {"override_config": {}}}
    assert known(tree, "trainer.nnodes") is None
    assert known(tree, "model.override_config.anything.at_all") is None
    assert "did you mean 'trainer.v1.mode'" in str(known(tree, "trainer.v1.mod"))
    assert "has v1" not in str(known(tree, "zzz"))
