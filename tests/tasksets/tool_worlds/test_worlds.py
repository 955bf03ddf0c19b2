from random import Random

import pytest

from m2gym.core.errors import InputError
from m2gym.tasksets.tool_worlds.kinds import HELD_ORDERS
from m2gym.tasksets.tool_worlds.syntax import COMMON, Syntax
from m2gym.tasksets.tool_worlds.taskset import Questions, call_reward, questions_of, tool_worlds
from m2gym.tasksets.tool_worlds.words import held_out, word
from m2gym.tasksets.tool_worlds.world import World


def drawn(novelty, count=300, **how):
    random = Random(novelty)
    return [World.draw(random, novelty=novelty, **how) for _ in range(count)]


@pytest.mark.parametrize("novelty", ["none", "combination", "unseen"])
def test_every_right_call_is_understood(novelty):
    random = Random(1)
    for world in drawn(novelty, tools=2):
        for n in range(4):
            episode = world.episode(random, n % 2)
            assert world.run(episode.call) == episode.answer, world


def test_what_is_no_call_of_the_world_is_not_answered():
    syntax = Syntax("<<", ">>", "|", ";")
    assert syntax.parse("<<kolu|mira;tabo>>", "kolu", ["a", "b"]) == ("mira", "tabo")
    for text in ("<<kolu|mira>>", "kolu|mira;tabo", "<<kolu|mira;tabo>> and", "<<rolu|mira;tabo>>"):
        assert syntax.parse(text, "kolu", ["a", "b"]) is None


def test_the_order_of_arguments_matters():
    random = Random(2)
    for world in drawn("none", kinds=["lookup"], count=40):
        episode = world.episode(random)
        swapped = world.call(episode.tool, episode.arguments[::-1])
        assert swapped != episode.call
        assert world.run(swapped) not in (None, episode.answer)


def test_training_never_sees_what_is_held_out():
    for world in drawn("none", tools=2):
        between = world.syntax.between
        assert between in COMMON or not held_out(between) or not held_out(between.strip())
        for tool in world.tools:
            assert not held_out(tool.name)
            assert tool.order not in HELD_ORDERS


def test_unseen_worlds_are_of_held_out_pieces_only():
    for world in drawn("unseen"):
        between = world.syntax.between
        assert held_out(between) or held_out(between.strip())
        for tool in world.tools:
            assert held_out(tool.name)
            if len(tool.order) == 3:
                assert tool.order in HELD_ORDERS


def test_both_orders_of_two_arguments_occur():
    orders = {tool.order for world in drawn("none") for tool in world.tools}
    assert {(0, 1), (1, 0)} <= orders


def test_a_word_is_on_the_wanted_side():
    random = Random(3)
    assert all(held_out(word(random, True)) for _ in range(50))
    assert not any(held_out(word(random)) for _ in range(50))


def test_mistakes_are_mistakes():
    random = Random(4)
    for world in drawn("none", count=60):
        episode = world.episode(random)
        wrong = world.mistaken(random, episode)
        assert wrong != episode.call


def test_a_world_and_its_questions_follow_from_their_numbers():
    one, other = Questions(3), Questions(3)
    assert one.world() == other.world()
    world = one.world()
    assert one.messages(world, 5, 3) == other.messages(world, 5, 3)
    assert one.messages(world, 5, 3)[-1] == one.messages(world, 5, 0)[-1]
    assert Questions(4).world() != world


def test_examples_show_every_tool_and_never_the_question():
    asked = Questions(1, tools=2, kinds=())
    world = asked.world()
    for n in range(30):
        shown = asked.examples(world, n, 3)
        assert [sum(e.tool == t for e in shown) for t in world.tools] == [3, 3]
        assert asked.episode(world, n).call not in [e.call for e in shown]


def test_rewards_of_a_call():
    asked = Questions(2)
    world = asked.world()
    mine, other = asked.episode(world, 0), asked.episode(world, 1)
    assert call_reward(world, mine, mine.call) == (1.0, 1.0)
    assert call_reward(world, mine, other.call) == (0.2, 0.0)
    assert call_reward(world, mine, mine.answer) == (0.0, 0.0)


def test_tasks_have_two_splits_and_know_their_world():
    tasks = tool_worlds(world=7, questions=5)
    assert len(tasks.ids("train")) == len(tasks.ids("test")) == 5
    task = tasks.task(tasks.ids("test")[0])
    asked = questions_of(task)
    episode = asked.episode(asked.world(), int(task.metadata["number"]))
    assert task.instruction == episode.question
    assert task.rewards[0].parameters == {"expected": episode.answer}
    with pytest.raises(InputError, match="novelty is none"):
        tool_worlds(novelty="new")
    with pytest.raises(InputError, match="at least 1"):
        tool_worlds(questions=0)
