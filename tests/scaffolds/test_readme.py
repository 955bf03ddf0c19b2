"""The page's own agent works as it is printed, through every way it names."""

import re
from pathlib import Path

import pytest

import m2gym
from m2gym.core.registry import SCAFFOLDS
from tests.rollout.conftest import tiny  # noqa: F401

README = Path(__file__).parents[2] / "m2gym" / "scaffolds" / "README.md"


def test_the_table_lists_every_scaffold():
    text = README.read_text("utf-8")
    for name in ("gold", "noop", "scripted", "random", "human"):
        assert f"| `{name}" in text
        assert name in SCAFFOLDS


@pytest.mark.usefixtures("tiny")
def test_the_ten_lines():
    [code] = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
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
