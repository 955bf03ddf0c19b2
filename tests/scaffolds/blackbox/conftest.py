import pytest

import m2gym
from m2gym.core.errors import DownloadError
from m2gym.core.registry import SCAFFOLDS
from m2gym.models.scripted import ScriptedModel
from tests.conftest import require
from tests.scaffolds.blackbox.scripts import NEW, SOURCE, TURNS, answers


@m2gym.reward("calc-mended")
def calc_mended(artifacts):
    return float(NEW in artifacts.text("calc.py"))


@pytest.fixture
def calc(bwrap, tmp_path, monkeypatch):
    """A small environment: a repository with one wrong operator."""
    monkeypatch.chdir(tmp_path)
    task = m2gym.Task(
        id="calc",
        instruction="The function add in calc.py subtracts. Mend it.",
        files={"calc.py": SOURCE},
        rewards=[m2gym.RewardSpec(name="calc-mended")],
        limits=m2gym.Limits(seconds=240, steps=20),
    )
    m2gym.register("calc", tasks=[task])
    return "calc"


@pytest.fixture
def installed():
    """An agent of the registry's, installed; skips where it cannot be fetched."""

    def make(name, **settings):
        agent = SCAFFOLDS.get(name)(**settings)
        try:
            agent.install()
        except DownloadError as error:
            require("registry", False, f"{name} needs a package registry: {error}")
        return agent

    return make


@pytest.fixture
def mends(calc, installed):
    """Let an agent mend it with its scripted model; the episode's record."""

    def run(name, **settings):
        model = ScriptedModel(answers(TURNS[name], tools=name != "aider"))
        agent = installed(name, **settings)
        [episode] = m2gym.evaluate(calc, agent=agent, model=model, progress=False)
        return episode

    return run
