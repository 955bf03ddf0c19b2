import pytest

import m2gym
from m2gym.core.errors import InputError
from m2gym.scaffolds.agents import parse_agent
from m2gym.scaffolds.shots import Shots
from m2gym.tasksets.tool_worlds.taskset import Questions


def test_examples_by_number_or_mixed():
    assert Shots(2).of(7) == 2
    assert [Shots([3, 1]).of(n) for n in range(3)] == [3, 1, 3]
    found = parse_agent("shots:3")
    assert isinstance(found, Shots)
    assert found.shots == 3
    for wrong in (-1, [], [1, 99]):
        with pytest.raises(InputError, match="examples are a number from 0 to 8"):
            Shots(wrong)


@pytest.mark.usefixtures("bwrap")
def test_the_worlds_answer_is_the_episodes():
    env = m2gym.make("tool-worlds", questions=2)
    asked = Questions()
    world = asked.world()
    _, info = env.reset(seed=0)
    number = int(info["task"].rpartition("/")[2])
    call = asked.episode(world, number).call
    _, reward, ended, *_ = env.step({"name": "call", "arguments": {"text": call}})
    assert ended
    assert reward == 1.0
    env.reset(seed=0)
    assert env.step({"name": "call", "arguments": {"text": "no call"}})[1] == 0.0
    env.close()
