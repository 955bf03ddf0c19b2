import asyncio
import os

import pytest

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.protocols import Scaffold
from m2gym.scaffolds.agents import check_scaffold, describe, parse_agent
from m2gym.scaffolds.human import Human, Lines, _action
from m2gym.scaffolds.random_commands import RandomCommands, draw
from m2gym.scaffolds.scripted import Scripted


@pytest.mark.parametrize("name", ["gold", "noop", "random", "human"])
def test_ids_give_scaffolds(name):
    scaffold = parse_agent(name)
    assert isinstance(scaffold, Scaffold)
    assert scaffold.name == name


def test_arguments(tmp_path):
    assert parse_agent("random:3") == RandomCommands(steps=3)
    file = tmp_path / "a.yaml"
    file.write_text('- ls\n- {name: bash, arguments: {command: "pwd"}}\n')
    assert parse_agent(f"scripted:{file}").actions[1]["name"] == "bash"
    file.write_text('{"t1": ["ls"], "*": []}')
    assert parse_agent(f"scripted:{file}").actions == {"t1": ["ls"], "*": []}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gold:x y", "takes no argument"),
        ("random:many", "number of steps"),
        ("scripted:/nothing.yaml", "No such file"),
        ("m2gym.scaffolds.gold:Silver", "has no 'Silver'"),
        ("m2gym.scaffolds.silver:Silver", "there is no module 'm2gym.scaffolds.silver'"),
        ("m2gym.scaffolds.agents:parse_agent", "parse_agent"),
    ],
)
def test_what_cannot_be_used_says_why(text, says):
    with pytest.raises((InputError, TypeError), match=says):
        parse_agent(text)


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(UnknownIdError, match="did you mean 'gold'"):
        parse_agent("golds")
    with pytest.raises(UnknownIdError, match="scripted"):
        parse_agent("skripted:file")


@pytest.mark.parametrize(
    "text", ["just words", "{t1: ls}", "- [1, 2]", "- {arguments: {}}", "- ls\n-: :\n  - {"]
)
def test_a_bad_script_is_refused(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match="scripted"):
        parse_agent(f"scripted:{file}")


def test_a_script_without_the_task_says_so():
    with pytest.raises(InputError, match="no actions for task 't9'"):
        Scripted({"t1": ["ls"]})._for("t9")


def test_a_class_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_agent_x.py").write_text(
        "class Mine:\n    name = 'mine'\n    async def run(self, episode): pass\n"
        "class Sync:\n    name = 'sync'\n    def run(self, episode): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    assert parse_agent("my_agent_x:Mine").name == "mine"
    with pytest.raises(InputError, match="async run"):
        parse_agent("my_agent_x:Sync")
    with pytest.raises(InputError, match="an agent is an id"):
        check_scaffold(42)


def test_settings_are_recorded():
    found = describe(RandomCommands(steps=3, seed=1))
    assert found == {
        "name": "random",
        "class": "m2gym.scaffolds.random_commands:RandomCommands",
        "settings": {"steps": 3, "seed": 1},
    }


def test_random_arguments_fit_the_schema():
    import random

    dice = random.Random(0)
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": 2, "maximum": 4},
            "b": {"enum": ["x", "y"]},
            "c": {"type": "array", "items": {"type": "boolean"}},
            "d": {"anyOf": [{"type": "null"}, {"type": "number", "maximum": 0.5}]},
        },
    }
    for _ in range(50):
        value = draw(dice, schema)
        assert 2 <= value["a"] <= 4
        assert value["b"] in ("x", "y")
        assert all(isinstance(item, bool) for item in value["c"])
        assert value["d"] is None or 0 <= value["d"] <= 0.5


def test_a_persons_lines():
    assert _action("ls -la") == "ls -la"
    assert _action('{"name": "f", "arguments": {}}')["name"] == "f"
    with pytest.raises(InputError, match="tool call in JSON"):
        _action("{oops")
    assert Human.interactive


def test_lines_of_a_pipe_and_of_a_file(tmp_path):
    async def all_of(descriptor):
        lines, found = Lines(), []
        while (line := await lines.next(descriptor)) is not None:
            found.append(line)
        return found

    reader, writer = os.pipe()
    os.write(writer, "ls\n\necho é".encode())
    os.close(writer)
    assert asyncio.run(all_of(reader)) == ["ls", "", "echo é"]
    (tmp_path / "in").write_text("pwd\n")
    with (tmp_path / "in").open() as file:
        assert asyncio.run(all_of(file.fileno())) == ["pwd"]


def test_waiting_for_a_line_can_be_cut_short():
    reader, writer = os.pipe()

    async def wait():
        async with asyncio.timeout(0.1):
            await Lines().next(reader)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    os.close(writer)
