"""What agents do with a model that fails, and with tools of other forms."""

import pytest

import m2gym
from m2gym.models.scripted import Call, Fault, ScriptedModel, Turn
from tests.scaffolds.blackbox.scripts import NEW, OLD, TURNS, answers

pytestmark = [pytest.mark.agents, pytest.mark.timeout(2400)]

PATCH = f"""*** Begin Patch
*** Update File: calc.py
@@
-    {OLD}
+    {NEW}
*** End Patch
"""


@pytest.fixture
def run(calc, installed):
    def run(name, model, **settings):
        agent = installed(name, **settings)
        [episode] = m2gym.evaluate(calc, agent=agent, model=model, progress=False)
        return episode

    return run


def test_a_free_form_tool_is_called_and_comes_back(run):
    patch = Turn(calls=(Call(name="apply_patch", input=PATCH),))
    model = ScriptedModel(answers([patch, Turn(text="Done.")]))
    episode = run("codex", model, model_name="gpt-5.5")
    assert episode.verdict.reward == 1.0
    [first, second] = episode.completions
    assert first.message["tool_calls"][0]["custom"] == {"name": "apply_patch", "input": PATCH}
    assert second.parent == 0
    assert "Success" in second.messages[-1]["content"]


def test_a_failure_is_tried_again_and_on_record(run):
    first, second = TURNS["codex"]
    failing = first.model_copy(update={"fault": Fault(status=500, message="hiccup")})
    episode = run("codex", ScriptedModel([failing, second]))
    assert (episode.verdict.reward, episode.error) == (1.0, None)
    assert [fault["message"] for fault in episode.faults] == ["hiccup"]
    assert [c.parent for c in episode.completions] == [None, 0]


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["codex", "claude-code", "gemini-cli", "qwen-code"])
def test_a_model_that_always_fails_is_nobodys_score(run, name):
    def answer(request):
        return Turn(fault=(Fault(status=500, message="down"),) * 99, text="never")

    episode = run(name, ScriptedModel(answer))
    assert (episode.verdict.reward, episode.verdict.status) == (None, "infra_error")
    assert f"the model failed {name} (server): down" in episode.error
    assert not episode.completions
