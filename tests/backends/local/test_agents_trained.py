"""Agents that m2gym does not know are trained: a program in a box, and real third-party ones."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

import m2gym  # noqa: E402
from m2gym.backends.local.backend import engine_of  # noqa: E402
from m2gym.backends.local.hooked import HookedModel  # noqa: E402
from m2gym.backends.local.rollouts import EpisodeRollouts  # noqa: E402
from m2gym.backends.local.trainer import LocalTrainer  # noqa: E402
from m2gym.backends.train_config import LocalConfig  # noqa: E402
from m2gym.envs.catalog import env_entry  # noqa: E402
from m2gym.models.formats import byte_format  # noqa: E402
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


def rollouts_of(agent, format, context):
    task = m2gym.Task(
        id="t",
        instruction="Say something.",
        files={"question.txt": "Say something."},
        rewards=[m2gym.RewardSpec(name="share-of-ascii")],
        artifacts=["out.txt"],
        limits=m2gym.Limits(seconds=300),
    )
    m2gym.register("ascii", tasks=[task])
    entry = env_entry("ascii")
    taskset = entry.taskset()
    first = Attempt(entry, taskset, taskset.task("t"), agent, agent.name)
    return EpisodeRollouts(first, format, ["t"], context=context)


async def trained(tmp_path, agent, **train):
    format = byte_format("chatml")
    model = tiny(vocabulary=format.tokenizer.vocabulary, max_position_embeddings=32768)
    hooked = HookedModel(model)
    engine = engine_of(hooked, format, LocalConfig())
    cfg = config(tmp_path, **{"steps": 3, "groups": 1, "group_size": 4, "lr": 1e-2, **train})
    before = [p.detach().clone() for p in model.parameters()]
    trainer = LocalTrainer(cfg, hooked, rollouts_of(agent, format, engine.context), engine=engine)
    rows = (await trainer.run()).rows
    engine.close()
    changed = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
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


@pytest.mark.agents
@pytest.mark.heavy
@pytest.mark.parametrize("name", ["mini-swe-agent", "codex"])
async def test_a_real_agent_is_trained_through_the_gateway(bwrap, tmp_path, name):
    """A random model makes no sense to it, but every call is recorded, graded and trained on."""
    rows, episodes, changed = await trained(
        tmp_path, parse_agent(name), steps=2, group_size=2, max_tokens=24
    )
    assert len(rows) == 2
    assert all(e.completions for e in episodes)
    assert all(row["masked_episodes"] == 0 for row in rows)
    if any(row["groups_equal"] < row["groups"] for row in rows):
        assert changed
