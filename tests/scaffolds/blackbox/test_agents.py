"""Each agent, as it is released, mends a file through its own loop; three of them in every run."""

import json

import pytest

from m2gym.core.registry import SCAFFOLDS
from m2gym.models.lines import lines
from tests.scaffolds.blackbox.scripts import TURNS

QUICK = ("codex", "claude-code", "gemini-cli")
"""Small to install, and a dialect each; chat is spoken by the tests of commands."""

ALL = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.heavy) for name in sorted(TURNS)
]
MORE = [
    (name, dialect)
    for name in ("mini-swe-agent", "opencode", "qwen-code")
    for dialect in SCAFFOLDS.get(name).flags.dialects[1:]
]

pytestmark = [pytest.mark.agents, pytest.mark.timeout(2400)]


def check(episode, name):
    assert episode.error is None
    assert (episode.verdict.reward, episode.verdict.status) == (1.0, "ok")
    assert episode.verdict.stop == "exited"
    main = lines(episode.completions)[0].completions
    assert len(main) == len(TURNS[name])
    for said, turn in zip((episode.completions[i].message for i in main), TURNS[name], strict=True):
        called = [call["function"]["name"] for call in said.get("tool_calls", ())]
        assert called == [call.name for call in turn.calls]
        assert said["content"].strip() == turn.text.strip()
    results = [m for i in main[1:] for m in episode.completions[i].messages if m["role"] == "tool"]
    assert len(results) == sum(len(turn.calls) for turn in TURNS[name][:-1])
    assert episode.usage.prompt_tokens > 0
    [launch] = episode.steps
    assert launch.action["name"] == "launch"
    assert launch.info["version"] == SCAFFOLDS.get(name)().version
    assert not episode.faults


@pytest.mark.parametrize("name", ALL)
def test_an_agent_mends_a_file_through_its_own_loop(mends, name):
    check(mends(name), name)


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "dialect"), MORE)
def test_an_agent_in_its_other_dialects(mends, name, dialect):
    episode = mends(name, dialect=dialect)
    check(episode, name)
    assert json.loads(episode.model_dump_json())["steps"][0]["info"]["dialect"] == dialect
