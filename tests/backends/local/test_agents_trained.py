"""Agents that m2gym does not know are trained: a program in a box, and real third-party ones."""

from __future__ import annotations

import re

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

import m2gym  # noqa: E402
from m2gym.backends.local.backend import engine_of  # noqa: E402
from m2gym.backends.local.hooked import HookedModel  # noqa: E402
from m2gym.backends.local.rollouts import EpisodeRollouts  # noqa: E402
from m2gym.backends.local.trainer import LocalTrainer  # noqa: E402
from m2gym.backends.train_config import LocalConfig  # noqa: E402
from m2gym.core.errors import InfraError  # noqa: E402
from m2gym.envs.catalog import env_entry  # noqa: E402
from m2gym.models import nano  # noqa: E402
from m2gym.models.formats import byte_format, guess_format  # noqa: E402
from m2gym.models.tokenizer import HfTokenizer  # noqa: E402
from m2gym.rollout.driver import Attempt  # noqa: E402
from m2gym.scaffolds.agents import parse_agent  # noqa: E402
from m2gym.tasksets.registry.site import boxed, interpreter, interpreter_mounts  # noqa: E402
from tests.backends.local.models import tiny  # noqa: E402
from tests.backends.local.test_trainer import config  # noqa: E402

pytestmark = pytest.mark.timeout(600)

CLIENT = """
import json, urllib.request
messages = [{"role": "user", "content": open("question.txt").read()}]
for turn in range(2):
    request = urllib.request.Request(
        "{base_url}/v1/chat/completions",
        json.dumps({"model": "{model}", "messages": messages}).encode(),
        {"Authorization": "Bearer {key}", "Content-Type": "application/json"},
    )
    said = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"] or ""
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Again."}]
open("out.txt", "w", encoding="utf-8").write(said)
"""


@m2gym.reward("share-of-ascii")
def share_of_ascii(artifacts):
    text = artifacts.text("out.txt") if "out.txt" in artifacts else ""
    return sum(c.isascii() for c in text) / max(1, len(text))


@m2gym.reward("share-of-letters")
def share_of_letters(trajectory):
    """Of what the program showed, errors too, but for the id of its session."""
    shown = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "", trajectory[-1].observation)
    return sum(c.isascii() and c.isalpha() for c in shown) / max(1, len(shown))


def rollouts_of(agent, format, context, reward):
    """One task; its second file is a system prompt for agents that take one from a file."""
    task = m2gym.Task(
        id="t",
        instruction="Say something.",
        files={"question.txt": "Say something.", "system.txt": "You answer."},
        rewards=[m2gym.RewardSpec(name=reward)],
        artifacts=["out.txt"],
        limits=m2gym.Limits(seconds=3600),
    )
    m2gym.register("ascii", tasks=[task])
    entry = env_entry("ascii")
    taskset = entry.taskset()
    first = Attempt(entry, taskset, taskset.task("t"), agent, agent.name)
    return EpisodeRollouts(first, format, ["t"], context=context)


def random_model(format, context=32768):
    """Weights that know nothing, for a format's vocabulary."""
    return tiny(vocabulary=format.tokenizer.vocabulary, max_position_embeddings=context)


async def trained(tmp_path, agent, format=None, context=32768, reward="share-of-ascii", **train):
    format = format or byte_format("chatml")
    hooked = HookedModel(random_model(format, context))
    engine = engine_of(hooked, format, LocalConfig())
    given = {"steps": 3, "groups": 1, "group_size": 4, "lr": 1e-2, **train}
    backend = {"id": "local", "micro_tokens": context}
    trainer_config = config(tmp_path, backend=backend, **given)
    before = [p.detach().clone() for p in hooked.model.parameters()]
    rollouts = rollouts_of(agent, format, engine.context, reward)
    trainer = LocalTrainer(trainer_config, hooked, rollouts, engine=engine)
    try:
        rows = (await trainer.run()).rows
    finally:
        engine.close()
    after = hooked.model.parameters()
    changed = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return rows, trainer.episodes(), changed


async def test_a_program_that_knows_only_urllib_is_trained_through_the_gateway(bwrap, tmp_path):
    mounts = {str(mount.source): mount.target for mount in interpreter_mounts()}
    agent = m2gym.CommandAgent(
        f"{boxed(interpreter())} ~/client.py", files={"~/client.py": CLIENT}, mounts=mounts
    )
    rows, episodes, changed = await trained(tmp_path, agent, max_tokens=12)
    assert changed
    assert len(episodes) == 12
    assert all(len(e.completions) == 2 for e in episodes)
    assert {e.reward for e in episodes} != {episodes[0].reward}
    for row in rows:
        assert row["engine_difference_max"] < 1e-3, "the recorded ids are what was sampled"
        assert row["masked_episodes"] == 0
        assert row["merge"] > 2, "four attempts at one prompt, two turns each"
    versions = {int(v) for e in episodes for c in e.completions for v in c.versions_T}
    assert versions == {0, 1, 2}, "an agent that runs on is answered by the new weights"


async def test_a_prompt_beyond_the_context_is_told_as_such(bwrap, tmp_path):
    """An agent's own failure says nothing of it: the error is the one that its model gave."""
    mounts = {str(mount.source): mount.target for mount in interpreter_mounts()}
    long = CLIENT.replace('open("question.txt").read()', '"word " * 300')
    agent = m2gym.CommandAgent(
        f"{boxed(interpreter())} ~/client.py", files={"~/client.py": long}, mounts=mounts
    )
    with pytest.raises(InfraError, match=r"context: the prompt has 15\d\d tokens.*context 1024"):
        await trained(tmp_path, agent, context=1024, steps=1, group_size=2)


WITHOUT = ("goals", "multi_agent", "shell_tool", "unified_exec")
INSTEAD = (
    "model_instructions_file=system.txt",
    'web_search="disabled"',
    "skills.include_instructions=false",
    "include_permissions_instructions=false",
    "include_environment_context=false",
)
SHORT = (
    *(word for feature in WITHOUT for word in ("--disable", feature)),
    *(word for setting in INSTEAD for word in ("-c", setting)),
)
"""Codex with a system prompt of two words and two tools: a request of 2 kB, of 40 otherwise."""


@pytest.mark.agents
@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["mini-swe-agent", "codex", "codex as it comes"])
async def test_a_real_agent_is_trained_through_the_gateway(bwrap, tmp_path, name):
    """A random model makes no sense to it, but every call is recorded, graded and trained on."""
    agent = parse_agent(name.partition(" ")[0])
    wide = {}
    if name == "codex":
        agent.arguments = SHORT
    elif name == "codex as it comes":
        wide = {"format": guess_format(HfTokenizer.load(nano.folder())), "context": 65536}
    rows, episodes, changed = await trained(
        tmp_path, agent, **wide, reward="share-of-letters", steps=3, group_size=2, max_tokens=16
    )
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(e.completions for e in episodes)
    assert all(row["masked_episodes"] == 0 for row in rows)
    learnt = [row for row in rows if row["grad_norm"] > 0]
    assert all(row["engine_difference_max"] < 1e-3 for row in learnt), "recorded as sampled"
    if agent.name == "codex":  # mini-swe-agent shows nothing of an answer without a call
        assert learnt
        assert changed
