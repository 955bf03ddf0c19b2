import asyncio

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from m2gym.backends.local import nano_icrl
from m2gym.backends.local.imitation import imitate, labelled, written
from m2gym.core.errors import InputError
from m2gym.tasksets.tool_worlds.taskset import tool_worlds


@pytest.fixture(scope="module")
def ready():
    hooked, format = nano_icrl.start()
    engine = nano_icrl.engine_of(hooked, format)
    rollouts = nano_icrl.rollouts_of(tool_worlds(world=5, questions=16), format, [0])
    yield hooked, engine, rollouts
    engine.close()


def test_labelled_answers_are_right_and_without_examples(ready):
    _, _, rollouts = ready
    tasks = list(rollouts.tasks)[:3]
    for task, sample in zip(tasks, labelled(rollouts, tasks), strict=True):
        prompt = rollouts.prompt(task, 0)
        assert sample.ids_T[: len(prompt)].tolist() == prompt
        assert rollouts.judged(task, sample.ids_T[len(prompt) :].tolist()) == (1.0, 1.0)
    with_thought, without = (labelled(rollouts, tasks, thought=t)[0] for t in (True, False))
    assert (with_thought.ids_T == without.ids_T).all()
    assert with_thought.trained_T.sum() > without.trained_T.sum()


def test_imitation_lowers_the_answers_surprise(ready):
    hooked, engine, rollouts = ready
    learner = nano_icrl.learner_of(hooked)
    answers = asyncio.run(written(engine, rollouts, list(rollouts.tasks)[:4], 0, 40))
    assert len(answers) >= 2, "with three examples most answers are right"
    found = [imitate(learner, answers, 5e-4) for _ in range(3)]
    assert found[2] < found[0] - 1
    with pytest.raises(InputError, match="at least one"):
        imitate(learner, [], 5e-4)
