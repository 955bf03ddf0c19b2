"""A budget that is used up ends every agent, by the status each one gives up at."""

import json
import os
from pathlib import Path

import pytest

import m2gym
from m2gym.models.scripted import ScriptedModel, Turn
from tests.scaffolds.blackbox.golden import SHELL, calls
from tests.scaffolds.blackbox.scripts import TURNS
from tests.scaffolds.blackbox.test_agents import ALL

pytestmark = [pytest.mark.agents, pytest.mark.timeout(2400)]


def endless(name):
    """A model that has its agent look about for ever."""

    def answer(request):
        if name == "aider":
            said = "SEARCH/REPLACE" in request.messages[0]["content"]
            return TURNS["aider"][0] if said else Turn(text="Mend the operator")
        if not request.tools:
            return Turn(text="Look about")
        turn = calls(SHELL[name](f"echo {len(request.messages)}"))
        return turn.model_copy(update={"cost_usd": 1.0})

    return ScriptedModel(answer)


@pytest.mark.parametrize("name", ALL)
def test_a_used_up_budget_ends_the_agent(calc, installed, name):
    budget = m2gym.Budget(tokens=1) if name == "aider" else m2gym.Budget(cost_usd=3.0)
    [episode] = m2gym.evaluate(
        calc, agent=installed(name), model=endless(name), budget=budget, progress=False
    )
    [launch] = episode.steps
    if place := os.environ.get("M2GYM_AGENT_FIGURES"):
        figures = {
            "agent": name,
            "budget": True,
            "answered": len(episode.completions),
            "refused": len(episode.faults),
            "seconds": episode.seconds["agent"],
            "exit_code": launch.info["exit_code"],
            "killed": launch.info.get("killed", ""),
        }
        with Path(place).open("a") as file:
            file.write(json.dumps(figures) + "\n")
    assert episode.verdict.status == "ok"
    assert episode.verdict.stop == ("tokens" if name == "aider" else "cost")
    assert episode.faults
    assert {fault["cause"] for fault in episode.faults} <= {"cost", "tokens", "cancelled"}
    assert "killed" not in launch.info
