"""Another package's environment, reward, scaffold, taskset and backend, built and found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "m2gym-greeter"
version = "1.0"
[project.entry-points."m2gym.envs"]
greeter = "greeter:ENV"
[project.entry-points."m2gym.rewards"]
greets = "greeter:greets"
[project.entry-points."m2gym.scaffolds"]
polite = "greeter:Polite"
[project.entry-points."m2gym.tasksets"]
greetings = "greeter:tasks"
[project.entry-points."m2gym.backends"]
parrot = "greeter:Parrots"
[tool.hatch.build.targets.wheel]
only-include = ["greeter.py"]
"""

MODULE = """
import m2gym
from m2gym.envs import EnvEntry
from m2gym.tasksets.memory import ListTaskset


def greets(artifacts, word: str):
    return float(artifacts.text("out.txt").strip() == word)


def tasks():
    reward = m2gym.RewardSpec(name="greets", parameters={"word": "hello"})
    task = m2gym.Task(id="t1", instruction="Greet.", files={"a": ""}, rewards=(reward,))
    return ListTaskset("greetings", [task])


ENV = EnvEntry("greeter", tasks, "says hello")


class Parrots:
    "Says what its specification says."

    def model(self, spec):
        from m2gym.models import ScriptedModel
        return ScriptedModel([spec])


class Polite:
    name = "polite"

    async def run(self, episode):
        await episode.act("echo hello > out.txt")
"""

USE = """
import gymnasium, m2gym
env = gymnasium.make("m2gym/greeter-v0")
env.reset(seed=0)
env.unwrapped.step("echo hello > out.txt")
assert env.unwrapped.submit()[1] == 1.0
env.close()
m2gym.register("again", tasks="greetings")
run = m2gym.evaluate("again", agent="polite", out="run", progress=False)
assert run.score == 1.0, run

import asyncio
from m2gym.core.protocols import ModelRequest
from m2gym.models import RecordedSession, load_model
session = RecordedSession(load_model("parrot:hello"))
request = ModelRequest([{"role": "user", "content": "?"}])
assert asyncio.run(session.complete(request)).message["content"] == "hello"
"""


@pytest.mark.usefixtures("bwrap")
def test_a_package_of_others_is_found_through_entry_points(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "greeter.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    site = tmp_path / "site"
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
