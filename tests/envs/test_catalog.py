"""Registering environments: where tasks and rewards may come from, and what is refused."""

from __future__ import annotations

import pytest

import m2gym
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.envs.catalog import env_entry, reward_specs

TESTS = """
import calc

def test_add():
    assert calc.add(2, 3) == 5

def test_zero():
    assert calc.add(0, 0) == 0
"""


def repository_task() -> m2gym.Task:
    return m2gym.Task(
        id="add",
        instruction="calc.add is wrong.",
        files={"calc.py": "def add(a, b):\n    return a - b\n"},
        metadata={
            "hidden": {"test_calc.py": TESTS},
            "fail_to_pass": ["test_calc.py::test_add"],
            "pass_to_pass": ["test_calc.py::test_zero"],
        },
    )


@pytest.mark.usefixtures("bwrap")
@pytest.mark.parametrize(("change", "reward"), [("a + b", 1.1), ("5", 0.1), ("a - b", 0.1)])
def test_a_repository_of_ones_own_is_judged_by_its_tests_and_more(change, reward):
    @m2gym.reward("short")
    def short(artifacts):
        return float(len(artifacts["calc.py"]) < 100)

    m2gym.register("calc", tasks=[repository_task()], rewards={"tests-pass": 1, "short": 0.1})
    env = m2gym.make("calc")
    env.reset(seed=0)
    env.step(f"sed -i 's/a - b/{change}/' calc.py")
    assert env.submit()[1] == pytest.approx(reward)
    env.close()


def test_rewards_may_be_names_functions_weights_or_specs():
    def my_reward(artifacts):
        return 1.0

    specs = reward_specs([my_reward, "tests-pass", m2gym.RewardSpec(name="x", weight=2)])
    assert [(spec.name, spec.weight) for spec in specs] == [
        ("my-reward", 1.0),
        ("tests-pass", 1.0),
        ("x", 2),
    ]
    assert m2gym.core.registry.REWARDS.get("my-reward") is my_reward


def test_a_reward_that_does_not_exist_is_named_before_a_box_is_started():
    m2gym.register("odd", tasks=[repository_task()], rewards=["tests-pas"])
    env = m2gym.make("odd")
    with pytest.raises(UnknownIdError, match="'tests-pass'"):
        env.reset(seed=0)


def test_an_environment_without_tasks_is_refused():
    m2gym.register("empty", tasks=[])
    with pytest.raises(InputError, match="no task"):
        m2gym.make("empty")


def test_a_registered_value_of_another_kind_is_named():
    m2gym.core.registry.ENVS.register("wrong-kind", "posixpath:sep")
    with pytest.raises(InputError, match="EnvEntry"):
        env_entry("wrong-kind")
