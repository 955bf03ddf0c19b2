import asyncio
import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from m2gym.backends.local import nano_arms, nano_icrl  # noqa: E402
from m2gym.backends.local.backend import rollouts_of  # noqa: E402
from m2gym.backends.local.gguf import model_folder  # noqa: E402
from m2gym.backends.local.worlds import WorldRollouts  # noqa: E402
from m2gym.backends.train_config import TrainConfig  # noqa: E402
from m2gym.core.errors import InputError  # noqa: E402
from m2gym.models import nano  # noqa: E402
from m2gym.tasksets.tool_worlds.taskset import tool_worlds  # noqa: E402

WORLD = {"world": 5, "questions": 16}


@pytest.fixture(scope="module")
def ready():
    hooked, format = nano_icrl.start()
    engine = nano_icrl.engine_of(hooked, format)
    yield hooked, format, engine
    engine.close()


def test_the_shipped_model_learns_in_context_and_knows_nothing_before(ready):
    hooked, format, engine = ready
    rollouts = nano_icrl.rollouts_of(tool_worlds(**WORLD), format, [0])
    found = [asyncio.run(nano_icrl.success(engine, rollouts, n, asked=16)) for n in (0, 3)]
    assert found[0] <= 0.1
    assert found[1] >= 0.8
    assert nano_icrl.nats(hooked, rollouts, 0, 4) > 5 > nano_icrl.nats(hooked, rollouts, 3, 4)


def test_an_episode_keeps_the_prompt_without_examples(ready):
    _, format, engine = ready
    rollouts = nano_icrl.rollouts_of(tool_worlds(**WORLD), format, [3, 0])
    task = rollouts.tasks[0]
    sampling = nano_icrl.Sampling(max_tokens=40, seed=1)
    episode = asyncio.run(rollouts.episode(engine, task, "k", sampling))
    assert list(episode.completions[0].prompt_ids) == rollouts.prompt(task, 3)
    assert json.loads(episode.extra["zero_prompt"]) == rollouts.prompt(task, 0)
    rollouts.at_stage(1)
    episode = asyncio.run(rollouts.episode(engine, task, "l", sampling))
    assert list(episode.completions[0].prompt_ids) == rollouts.prompt(task, 0)
    held = asyncio.run(rollouts.episode(engine, rollouts.held_out[0], "m", sampling))
    assert "zero_prompt" not in held.extra


def test_the_answer_alone_is_judged(ready):
    _, format, _ = ready
    rollouts = nano_icrl.rollouts_of(tool_worlds(**WORLD), format, [0])
    task = rollouts.tasks[0]
    right = rollouts.questions.episode(rollouts.world, 0).call
    ids = format.spell(f"use it\n</think>\n\n{right}[e~[")
    assert rollouts.judged(task, ids) == (1.0, 1.0)
    assert rollouts.judged(task, format.spell(right)) == (0.0, 0.0)
    assert rollouts.judged(task, [*rollouts.prompt(task, 3)[:-3]])[1] == 0.0


def test_a_configuration_says_the_examples_of_each_stage(ready, tmp_path):
    _, format, _ = ready
    config = nano_arms.config_of("3-2-0", WORLD, 0, tmp_path)
    made = rollouts_of(config, format, 2048)
    assert isinstance(made, WorldRollouts)
    assert list(made.shots) == [3, 2, 0]
    shipped = TrainConfig.load("examples/icrl_m2_nano.yaml")
    assert model_folder(shipped.model) == str(nano.folder())
    with pytest.raises(InputError, match="3-2-0"):
        nano_arms.config_of("3-2", WORLD, 0, tmp_path)


def test_curricula_and_zero_have_the_same_budget():
    own = {"none", "guarded", "distil"}
    arms = {n: a for n, a in nano_arms.ARMS.items() if n not in own and not a.labelled}
    assert {sum(steps for _, steps, _ in arm.stages) for arm in arms.values()} == {100}
    assert len(arms) == 7
    assert nano_arms.DEFAULT in nano_arms.ARMS


def test_the_shipped_configuration_is_the_default_arm(tmp_path):
    shipped = TrainConfig.load("examples/icrl_m2_nano.yaml")
    ours = nano_arms.config_of(nano_arms.DEFAULT, {"world": 34, "questions": 512}, 0, tmp_path)
    assert shipped.stages[:-1] == ours.stages[:-1]
    assert shipped.stages[-1].lr == ours.stages[-1].lr
    assert shipped.train.steps == ours.train.steps
