"""All agents finish a real task: the reference change, made through each one's own tools."""

import json
import os
from pathlib import Path

import pytest

import m2gym
from m2gym.envs.catalog import env_entry
from m2gym.models.lines import lines
from m2gym.models.scripted import ScriptedModel
from tests.scaffolds.blackbox.golden import edits, turns
from tests.scaffolds.blackbox.scripts import TURNS, answers

TASK = "click-8.1.4-5"
CHECK = "python -m pytest -q tests/test_utils.py 2>&1 | tail -3"


def test_edits_make_the_change():
    before = "".join(f"line {i % 3}\n" for i in range(12))
    after = before.replace("line 1\n", "", 1) + "more\n"
    found = list(edits(before, after))
    assert len(found) == 2
    for was, becomes in found:
        assert before.count(was) == 1
        before = before.replace(was, becomes)
    assert before == after


@pytest.mark.agents
@pytest.mark.heavy
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("bwrap")
@pytest.mark.parametrize("name", sorted(TURNS))
def test_an_agent_finishes_a_real_task(name, installed, tmp_path):
    taskset = env_entry("swe-repo").taskset()
    prepared = taskset.prepare(taskset.task(TASK))
    said = turns(name, prepared, CHECK)
    run = m2gym.evaluate(
        "swe-repo",
        agent=installed(name),
        model=ScriptedModel(answers(said, tools=name != "aider")),
        tasks=[TASK],
        out=tmp_path / "run",
        progress=False,
    )
    [episode] = run
    if place := os.environ.get("M2GYM_AGENT_FIGURES"):
        keep(Path(place), name, episode)
    assert episode.error is None
    assert (episode.verdict.reward, episode.verdict.status) == (1.0, "ok")
    main = lines(episode.completions)[0].completions
    assert len(main) == len(said)
    if name != "aider":
        results = [m for c in episode.completions for m in c.messages if m["role"] == "tool"]
        assert any(" passed" in str(message["content"]) for message in results)


def keep(file: Path, name: str, episode) -> None:
    """Append a line of figures for docs/agents.md."""
    main = lines(episode.completions)[0].completions
    root = episode.completions[main[0]]
    figures = {
        "agent": name,
        "version": episode.steps[0].info["version"],
        "dialect": episode.steps[0].info["dialect"],
        "reward": episode.verdict.reward,
        "seconds": episode.seconds,
        "calls": len(episode.completions),
        "main": len(main),
        "tools": len(root.tools),
        "prompt_tokens": root.usage.prompt_tokens,
        "exit_code": episode.steps[0].info["exit_code"],
    }
    with file.open("a") as lines_file:
        lines_file.write(json.dumps(figures) + "\n")
