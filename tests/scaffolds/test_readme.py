"""The page's own agent works as it is printed, through every way it names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import m2gym
from m2gym.scaffolds.blackbox.command import CommandAgent
from m2gym.scaffolds.blackbox.contract import Endpoint, Job
from tests.rollout.conftest import tiny  # noqa: F401

README = Path(__file__).parents[2] / "m2gym" / "scaffolds" / "README.md"


def test_the_table_lists_every_scaffold():
    text = README.read_text("utf-8")
    listed = set(re.findall(r"`([a-z][a-z-]*)", "\n".join(re.findall(r"^\|.*?\|", text, re.M))))
    code = "import m2gym; from m2gym.core.registry import SCAFFOLDS; print(*SCAFFOLDS.names())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= listed


def test_the_example_of_a_command_is_one():
    [example] = re.findall(r"```yaml\n# my-agent.yaml\n(.*?)```", README.read_text("utf-8"), re.S)
    agent = CommandAgent.from_settings(yaml.safe_load(example))
    launch = agent.launch(Endpoint("http://h:1", "k", "m"), Job("do it", "/w", "/home/a"))
    assert "--api-base http://h:1/v1 --model m" in launch.command[2]
    assert launch.files["~/.config/my-agent/settings.json"] == '{"telemetry": false, "model": "m"}'
    assert launch.env == {"OPENAI_API_KEY": "k"}


@pytest.mark.usefixtures("tiny")
def test_the_ten_lines():
    [code] = re.findall(r"```python\n(# my_agent.*?)```", README.read_text("utf-8"), re.S)
    Path("my_agent.py").write_text(code)
    by_text = m2gym.evaluate("tiny", agent="my_agent:GrepFirst", limit=1, progress=False)
    [episode] = by_text
    assert episode.verdict.status == "ok"
    assert episode.steps[0].action.startswith("grep")

    import my_agent

    m2gym.scaffold("grep-first")(my_agent.GrepFirst)
    assert m2gym.evaluate("tiny", agent="grep-first", limit=1, progress=False).score == 0
    by_object = m2gym.evaluate("tiny", agent=my_agent.GrepFirst(), limit=1, progress=False)
    assert by_object.config.scaffold["class"] == "my_agent:GrepFirst"
