"""Each agent, as it is released, mends a file through its own loop; three of them in every run."""

import json

import pytest

import m2gym
from m2gym.core.registry import SCAFFOLDS
from m2gym.models.lines import lines
from m2gym.models.scripted import ScriptedModel
from tests.scaffolds.blackbox.scripts import TURNS, answers

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
    flags = SCAFFOLDS.get(name).flags
    assert (len(episode.completions) > len(main)) == flags.side_calls
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


GEMINI = """
command: gemini -y -m {model} -p {instruction}
install: ["npm:@google/gemini-cli@0.61.0"]
env:
  GEMINI_API_KEY: "{key}"
  GOOGLE_GEMINI_BASE_URL: "{base_url}"
  GEMINI_CLI_TRUST_WORKSPACE: "true"
files:
  ~/.gemini/settings.json: '{"security": {"auth": {"selectedType": "gemini-api-key"}}}'
"""


def test_an_agent_without_python(calc, installed, tmp_path):
    """The page's ten minutes: a released agent as a YAML file."""
    installed("gemini-cli")
    (tmp_path / "agent.yaml").write_text(GEMINI)
    turns = TURNS["gemini-cli"]
    [episode] = m2gym.evaluate(
        calc,
        agent=f"command:{tmp_path / 'agent.yaml'}",
        model=ScriptedModel(answers(turns)),
        progress=False,
    )
    assert episode.error is None
    assert episode.verdict.reward == 1.0
    assert len(episode.completions) == len(turns)
    assert episode.agent.startswith("command:")
