"""Black-box agents in containers without a network: the gateway is on the box's own loopback."""

import json

import pytest

import m2gym
from m2gym.models.scripted import ScriptedModel
from tests.scaffolds.blackbox.scripts import SED, TURNS, answers
from tests.scaffolds.blackbox.test_agents import check
from tests.scaffolds.blackbox.test_command import CLIENT, NETWORK
from tests.workspaces.engine import need_engine


@pytest.fixture
def contained(calc, tmp_path):
    """Let an agent work in a container; the episode's record."""
    need_engine()

    def run(agent, turns):
        model = turns if hasattr(turns, "stream") else ScriptedModel(turns)
        [episode] = m2gym.evaluate(
            calc, agent=agent, model=model, workspace="docker", progress=False
        )
        return episode

    return run


def client(script=CLIENT):
    """A program over the image's own Python, and nothing else."""
    return m2gym.CommandAgent(
        "python3 ~/client.py {instruction_file}", files={"~/client.py": script}, name="client"
    )


def test_a_program_reaches_the_gateway_and_nothing_else(contained):
    script = CLIENT.replace("task = open", NETWORK + "task = open")
    episode = contained(client(script), [SED, "cat net", "done"])
    assert episode.error is None
    assert (episode.verdict.reward, episode.workspace) == (1.0, "docker")
    found = json.loads(episode.completions[2].messages[-1]["content"])
    assert found == {"interfaces": ["lo"], "outside": "OSError"}
    [launch] = episode.steps
    assert launch.observation.strip() == "finished /workspace"
    assert launch.info["exit_code"] == 7


@pytest.mark.heavy
def test_a_budget_ends_it_there_too(contained, calc):
    [episode] = m2gym.evaluate(
        calc, agent=client(), model=ScriptedModel([SED, "true", "done"]), workspace="docker",
        budget=m2gym.Budget(tokens=10), progress=False,
    )  # fmt: skip
    assert episode.verdict.stop == "tokens"


@pytest.mark.agents
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    "name", ["codex", pytest.param("gemini-cli", marks=pytest.mark.heavy),
             pytest.param("claude-code", marks=pytest.mark.heavy)]
)  # fmt: skip
def test_a_released_agent_mends_a_file_in_a_container(contained, installed, name):
    agent = installed(name)
    check(contained(agent, ScriptedModel(answers(TURNS[name], tools=True))), name)
