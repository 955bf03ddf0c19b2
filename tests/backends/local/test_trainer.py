"""Training on prompts with a reward: it learns, resumes exactly, and says what is wrong."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.checkpoint import CheckpointCorruptError  # noqa: E402
from m2gym.backends.local.hooked import HookedModel, load_causal  # noqa: E402
from m2gym.backends.local.learner import Learner, graded, objective_of  # noqa: E402
from m2gym.backends.local.metrics import anomalies  # noqa: E402
from m2gym.backends.local.optimiser import MasterAdamW, rate  # noqa: E402
from m2gym.backends.local.rollouts import PromptRollouts  # noqa: E402
from m2gym.backends.local.trainer import LocalTrainer  # noqa: E402
from m2gym.backends.train_config import AlgorithmConfig, TrainConfig, TrainSettings  # noqa: E402
from m2gym.core.errors import InfraError, InputError  # noqa: E402
from m2gym.forge.records import PoolCompletion, PoolTrajectory  # noqa: E402
from m2gym.forge.soundness import MergeMismatchError  # noqa: E402
from tests.backends.local.models import VOCABULARY, tiny  # noqa: E402

WANTED = 7


def share(task, ids):
    """How much of an answer is the wanted token."""
    return sum(i == WANTED for i in ids) / len(ids)


def prompts(reward=share, n=6):
    rng = np.random.default_rng(0)
    texts = {f"t{k}": rng.integers(10, 60, 12).tolist() for k in range(n)}
    return PromptRollouts(texts, reward, tasks=[*texts][:-2], held_out=[*texts][-2:])


def config(out, **train):
    parts = {key: train.pop(key) for key in ("algorithm", "backend") if key in train}
    base = {
        "steps": 4, "groups": 2, "group_size": 4, "lr": 3e-3, "max_tokens": 8, "save_every": 2,
    }  # fmt: skip
    return TrainConfig(env="prompts", model="tiny", out=out, train={**base, **train}, **parts)


async def train(cfg, rollouts=None, *, model=None, **options):
    hooked = HookedModel(model or tiny(initializer_range=0.1))
    return await LocalTrainer(cfg, hooked, rollouts or prompts(), **options).run()


def numbers(rows):
    """What must repeat: everything but times."""
    return [
        {k: v for k, v in row.items() if not k.startswith("seconds") and k != "tokens_per_second"}
        for row in rows
    ]


async def test_the_reward_rises(tmp_path):
    cfg = config(tmp_path, steps=25, group_size=8, lr=1e-2, eval_every=25, save_every=25)
    result = await train(cfg)
    rewards = [row["reward"] for row in result.rows]
    assert np.mean(rewards[-5:]) > 5 * np.mean(rewards[:5]) > 0
    assert result.held_out > 0.3
    last = result.rows[-1]
    assert last["engine_difference_max"] < 1e-3, "trainer and engine are one model"
    assert last["ratio_max"] == pytest.approx(1, abs=1e-3), "synchronous: on policy"
    assert last["merge"] > 1.5, "a group's prompt is computed once"
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in written] == list(range(1, 26))
    assert (result.model / "config.json").is_file()


@pytest.mark.parametrize("lag", [0, 2])
async def test_a_resumed_run_gives_the_same_numbers(tmp_path, lag):
    algorithm = {"schedule": {"lag": lag, "window": 1.0}}
    whole_model = tiny(initializer_range=0.1)
    whole = await train(config(tmp_path / "whole", steps=6, algorithm=algorithm), model=whole_model)
    assert max(row["lag_max"] for row in whole.rows) == lag
    for row in whole.rows:
        assert 0 < row["engine_difference_max"] < 1e-3, "compared at every step, whatever the lag"
    parted = config(tmp_path / "parted", steps=6, algorithm=algorithm)
    calls = 0

    class Died(Exception):
        pass

    def dies(row):
        if row["step"] == 5:
            raise Died

    def counted(task, ids):
        nonlocal calls
        calls += 1
        return share(task, ids)

    with pytest.raises(Died):
        await train(parted, prompts(counted), told=dies)
    before = calls
    model = tiny(initializer_range=0.1, seed=9)
    result = await train(parted, prompts(counted), model=model, resume=True)
    assert numbers(result.rows) == numbers(whole.rows)
    assert calls - before == (6 + lag - 5 - lag) * 8, "what is in the pool is not generated again"
    for a, b in zip(whole_model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.backends.local.test_trainer import config, train
asyncio.run(train(config(Path(sys.argv[1]), steps=int(sys.argv[2])), resume=sys.argv[3] == "resume",
    told=lambda row: print(row["step"], flush=True)))
"""


def test_kill_9_loses_nothing(tmp_path):
    def start(name, mode):
        args = [sys.executable, "-c", PROGRAM, str(tmp_path / name), "7", mode]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=env)

    victim = start("killed", "new")
    assert victim.stdout is not None
    for line in victim.stdout:
        if line.strip() == "5":
            victim.send_signal(signal.SIGKILL)
            break
    assert victim.wait() == -signal.SIGKILL
    for name, mode in (("killed", "resume"), ("whole", "new")):
        process = start(name, mode)
        process.communicate()
        assert process.returncode == 0
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    ]
    assert numbers(rows[0]) == numbers(rows[1])


async def test_an_update_equals_plain_autograd():
    """Gradients of merged micro-batches are those of the objective over whole rows."""
    model = tiny(initializer_range=0.2)
    rng = np.random.default_rng(1)
    shared = rng.integers(3, VOCABULARY, 9)

    def episode(key, reward, n):
        ids = rng.integers(3, VOCABULARY, n).astype(np.int32)
        old = np.full(n, -4.0, np.float32)
        prompt = np.concatenate([shared, rng.integers(3, VOCABULARY, 2)]).astype(np.int32)
        turns = (PoolCompletion(prompt, ids, old, np.zeros(n, np.int32)),)
        return PoolTrajectory(key, turns, reward)

    groups = [[episode(f"{g}{m}", float(m == g), 4 + m) for m in range(3)] for g in range(2)]
    algorithm = AlgorithmConfig(epsilon_high=0.5)
    data = graded(groups, algorithm)
    plain = copy.deepcopy(model)
    total = sum(int(s.trained_T.sum()) for s in data.samples)
    loss = 0.0
    for sample, advantage in zip(data.samples, data.advantage_S, strict=True):
        ids = torch.tensor(sample.ids_T)
        logp = plain(ids[None]).logits[0].log_softmax(-1)
        at = torch.tensor(np.flatnonzero(sample.trained_T))
        logp = logp[at - 1, ids[at]]
        ratio = (logp.detach() + 4.0).exp().clamp(max=1.5)
        loss = loss - (ratio * advantage * logp).sum() / total
    loss.backward()
    settings = TrainSettings(lr=1e-2, clip=None)
    MasterAdamW(plain, settings).step(1e-2)
    hooked = HookedModel(model)
    learner = Learner(hooked, algorithm, MasterAdamW(model, settings), micro_tokens=40)
    stats = learner.update(data, 0, 1e-2)
    assert stats["loss"] == pytest.approx(float(loss), abs=1e-5)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize("own", [{"lora": {"rank": 4}}, {"checkpointing": True}])
async def test_adapters_checkpointing_and_a_reference(tmp_path, own):
    from m2gym.backends.local.backend import prepared

    model = tiny(initializer_range=0.1)
    first = {n: p.detach().clone() for n, p in model.named_parameters()}
    cfg = config(
        tmp_path, lr=2e-2, backend={"id": "local", **own},
        algorithm={"id": "grpo", "kl": 0.01, "entropy": 0.001},
    )  # fmt: skip
    hooked = prepared(model, cfg)
    result = await LocalTrainer(cfg, hooked, prompts()).run()
    assert result.rows[0]["kl_reference"] == pytest.approx(0, abs=1e-6)
    assert result.rows[-1]["kl_reference"] > 1e-6
    assert result.rows[-1]["engine_difference_max"] < 1e-3
    if "lora" in own:
        assert (tmp_path / "adapter" / "adapter_config.json").is_file()
        merged = HookedModel(load_causal(str(result.model)))
        ids = torch.arange(3, 20)
        both = [m.logits(m.hidden(ids, ids - 3, None)) for m in (merged, hooked)]
        torch.testing.assert_close(*both, atol=1e-4, rtol=0)
        kept = {n.replace(".base_layer", ""): p for n, p in hooked.base.named_parameters()}
        assert all(torch.equal(kept[n], p) for n, p in first.items())


async def test_16_bits_train_over_fp32_masters(tmp_path):
    model = tiny(initializer_range=0.1).to(torch.bfloat16)
    result = await train(config(tmp_path, lr=1e-5), model=model)
    masters = torch.load(tmp_path / "checkpoints" / "step-000004" / "state.pt", weights_only=True)[
        "optimiser"
    ]["masters"]
    assert {m.dtype for m in masters} == {torch.float32}
    kept = dict(zip((n for n, _ in model.named_parameters()), masters, strict=True))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, kept[name].bfloat16())
    assert any((m != m.bfloat16().float()).any() for m in masters), "small steps are not lost"
    assert result.rows[-1]["engine_difference_mean"] < 0.05


async def test_what_cannot_be_graded_is_masked_and_a_dead_source_ends_the_run(tmp_path):
    def sometimes(task, ids):
        return math.nan if ids[0] % 3 == 0 else share(task, ids)

    result = await train(config(tmp_path / "a", group_size=8), prompts(sometimes))
    assert sum(row["masked_episodes"] for row in result.rows) > 0
    assert all(math.isfinite(row["reward"]) for row in result.rows)
    with pytest.raises(InfraError, match="could be graded"):
        await train(config(tmp_path / "b"), prompts(lambda task, ids: math.nan))


async def test_a_prompt_that_fills_the_context_is_masked_and_counted(tmp_path):
    rollouts = prompts()
    long = {**rollouts.prompts, "t1": [5] * 3000}
    result = await train(config(tmp_path / "a"), PromptRollouts(long, share, tasks=["t0", "t1"]))
    assert len(result.rows) == 4
    assert sum(row["dropped_groups"] for row in result.rows) > 0
    with pytest.raises(InfraError, match=r"context.*3000 tokens and the context 2048"):
        await train(config(tmp_path / "b"), PromptRollouts({"t1": [5] * 3000}, share))


async def test_equal_groups_update_nothing_and_are_named(tmp_path):
    model = tiny(initializer_range=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    result = await train(config(tmp_path, steps=6), prompts(lambda t, i: 1.0), model=model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not result.rows[3]["anomalies"]
    assert "stuck rewards" in result.rows[4]["anomalies"][0]
    assert all(row["engine_difference_max"] < 1e-3 for row in result.rows), (
        "also where all is equal"
    )


async def test_a_run_ends_at_its_goal_and_stays_there(tmp_path):
    cfg = config(tmp_path, steps=6, eval_every=2, stop_at=0.5)
    result = await train(cfg, prompts(lambda task, ids: 0.5 + (ids[0] % 2) / 2))
    assert [row["step"] for row in result.rows] == [1, 2]
    assert result.held_out >= 0.5
    again = await train(cfg, prompts(lambda task, ids: 0.0), resume=True)
    assert numbers(again.rows) == numbers(result.rows)


async def test_bad_folders_and_changed_configurations(tmp_path):
    cfg = config(tmp_path / "run")
    await train(cfg)
    with pytest.raises(InputError, match="holds a run already"):
        await train(cfg)
    with pytest.raises(InputError, match="no run to resume"):
        await train(config(tmp_path / "other"), resume=True)
    with pytest.raises(InputError, match=r"other values of train\.lr \(was .+, now 1\.0\)"):
        await train(cfg.replace(train={"lr": 1.0}), resume=True)
    more = await train(cfg.replace(train={"steps": 5}), resume=True)
    assert [row["step"] for row in more.rows] == [1, 2, 3, 4, 5]
    state = tmp_path / "run" / "checkpoints" / "step-000005" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointCorruptError, match="delete this folder"):
        await train(cfg.replace(train={"steps": 6}), resume=True)


@pytest.mark.parametrize("lag", [0, 2])
async def test_without_its_damaged_checkpoint_a_run_goes_on_from_the_one_before(tmp_path, lag):
    """As the error says; twice, and with the numbers it would have had."""
    algorithm = {"schedule": {"lag": lag, "window": 1.0}}
    cfg = config(tmp_path / "run", steps=5, keep=3, algorithm=algorithm)
    whole = await train(cfg.replace(out=tmp_path / "whole", train={"steps": 6}))
    await train(cfg)
    for newest in (5, 4):
        place = tmp_path / "run" / "checkpoints" / f"step-{newest:06d}"
        (place / "state.pt").write_bytes(b"damaged")
        with pytest.raises(CheckpointCorruptError, match="delete this folder"):
            await train(cfg, resume=True)
        shutil.rmtree(place)
        last = cfg.replace(train={"steps": 6 if newest == 4 else 4})
        again = await train(last, resume=True)
        assert numbers(again.rows) == numbers(whole.rows)[: last.train.steps]
    for place in (tmp_path / "run" / "checkpoints").iterdir():
        shutil.rmtree(place)
    with pytest.raises(InfraError, match="first 2 updates are let go"):
        await train(cfg.replace(train={"steps": 6}), resume=True)


def test_anomalies_are_named():
    calm = {"step": 1, "grad_norm": 1.0, "groups": 2, "groups_equal": 0, "length": 10, "entropy": 2}
    assert not anomalies(calm, [calm] * 9)
    bad = {
        **calm, "grad_norm": math.nan, "ratio_max": 99.0, "entropy": 0.001, "length": 100,
        "engine_difference_mean": 1.0,
    }  # fmt: skip
    said = " ".join(anomalies(bad, [calm] * 9))
    for name in ("not finite", "blow-up", "collapse", "disagree", "exploding length"):
        assert name in said


def test_rates_and_objectives():
    linear = TrainSettings(lr=1.0, steps=11, warmup=1, decay="linear")
    assert [rate(linear, s) for s in (0, 1, 10)] == pytest.approx([1.0, 1.0, 0.1])
    cosine = linear.model_copy(update={"decay": "cosine"})
    assert rate(cosine, 10) == pytest.approx(0.1)
    assert objective_of(AlgorithmConfig(id="dapo", kl=0.1)).epsilon_high == 0.28
    with pytest.raises(InputError, match="cispo has no kl"):
        objective_of(AlgorithmConfig(kl=0.1))


async def test_a_model_that_reads_across_branches_is_refused_before_the_first_update(tmp_path):
    model = tiny(initializer_range=0.1)
    model.get_input_embeddings().register_forward_hook(
        lambda module, given, out: out + 0.5 * out.roll(1, -2)  # a neighbour in the row
    )
    with pytest.raises(MergeMismatchError, match="without merging"):
        await train(config(tmp_path), model=model)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "minimax_m2"])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_merging_is_exact_by_the_pass_that_trains(kind, kept):
    hooked = HookedModel(tiny(kind, initializer_range=0.1).to(kept))
    learner = Learner(hooked, AlgorithmConfig(), MasterAdamW(hooked.model, TrainSettings()))
    found = learner.check_merging()
    assert set(found) == {"logprobs", "gradients"}
    assert all(p.grad is None for p in hooked.base.parameters())
    if kept == torch.float32:
        assert max(found.values()) < 1e-4
