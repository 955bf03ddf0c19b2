"""Stages of a run: their settings, resets, exact resume, and what memory does to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.hooked import HookedModel  # noqa: E402
from m2gym.backends.local.learner import Learner, graded  # noqa: E402
from m2gym.backends.local.optimiser import MasterAdamW, rate  # noqa: E402
from m2gym.backends.local.trainer import LocalTrainer  # noqa: E402
from m2gym.backends.stages import Stages  # noqa: E402
from m2gym.backends.train_config import AlgorithmConfig, TrainConfig, TrainSettings  # noqa: E402
from m2gym.core.errors import InfraError, InputError  # noqa: E402
from m2gym.forge.pack import Budget  # noqa: E402
from m2gym.forge.records import PoolCompletion, PoolTrajectory  # noqa: E402
from tests.backends.local.models import VOCABULARY, tiny  # noqa: E402
from tests.backends.local.test_trainer import config, numbers, prompts, train  # noqa: E402

STAGES = [
    {"steps": 2, "objective": "grpo", "kl": 0.01, "temperature": 1.7, "lr": 1e-3},
    {"advantage": "centred", "fraction": 0.5},
]


def even(task, ids):
    """How much of an answer are even ids."""
    return sum(i % 2 == 0 for i in ids) / len(ids)


def test_a_stage_has_its_own_settings_and_the_runs_where_it_names_none():
    cfg = TrainConfig(
        env="e", model="m", algorithm={"id": "cispo", "epsilon_high": 5.0},
        train={"steps": 9, "lr": 0.5, "warmup": 2},
        stages=[{"steps": 3, "objective": "dapo", "lr": 0.1}, {"steps": 4, "success": 0.5}, {}],
    )  # fmt: skip
    stages = Stages(cfg)
    first, second = stages.algorithm_of(0), stages.algorithm_of(1)
    assert (first.id, first.epsilon_high) == ("dapo", None), "another objective's own clipping"
    assert (second.id, second.epsilon_high) == ("cispo", 5.0)
    assert [stages.settings_of(n).lr for n in range(3)] == [0.1, 0.5, 0.5]
    moved = [stages.step(1.0) for _ in range(9)]
    assert [n + 1 for n, m in enumerate(moved) if m is not None] == [3, 7]
    assert stages.index == 2
    assert [rate(cfg.train, n, begun=4) for n in (4, 5, 6)] == [0.25, 0.5, 0.5]


def test_only_stages_up_to_one_that_may_step_back_are_guarded():
    stages = [{"steps": 1}, {"steps": 1, "step_back": 1.0}, {"steps": 1}, {}]
    run = Stages(TrainConfig(env="e", model="m", train={"steps": 9}, stages=stages))
    found = []
    for _ in range(4):
        found.append(run.guarded)
        run.step(0.0)
    assert found == [True, True, False, False]
    assert not Stages(TrainConfig(env="e", model="m")).guarded


def test_success_ends_a_stage_early():
    cfg = TrainConfig(
        env="e", model="m", train={"steps": 90}, stages=[{"steps": 50, "success": 0.9}, {}]
    )
    stages = Stages(cfg)
    moved = [stages.step(0.0 if n < 5 else 1.0) for n in range(20)]
    assert [n + 1 for n, m in enumerate(moved) if m is not None] == [14], "nine of the last ten"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"stages": [{}, {}]}, r"stages\.0 needs steps"),
        ({"stages": [{"steps": 60}, {}]}, "the last stage would never begin"),
        ({"train": {"stop_at": 0.5}}, r"set train\.eval_every"),
        (
            {
                "stages": [{"steps": 2, "temperature": 2.0}, {}],
                "algorithm": {"schedule": {"lag": 1}},
            },
            "cannot be trained on at another",
        ),
    ],
)
def test_stages_that_make_no_sense(changed, says):
    with pytest.raises(InputError, match=says):
        Stages(TrainConfig(env="e", model="m", **changed))


async def test_a_run_in_stages_resumes_to_the_same_numbers(tmp_path):
    """Also in the middle of a stage whose reference and optimiser began anew."""
    stages = [*STAGES[:1], {"steps": 2, "objective": "grpo", "kl": 0.1}, *STAGES[1:]]
    whole_model = tiny(initializer_range=0.1)
    cfg = config(tmp_path / "whole", steps=6, save_every=3).replace(stages=stages)
    whole = await train(cfg, prompts(even), model=whole_model)
    assert [row["stage"] for row in whole.rows] == [1, 1, 2, 2, 3, 3]
    kl = [row.get("kl_reference") for row in whole.rows]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[1] > 1e-6
    assert kl[2] == pytest.approx(0, abs=1e-6), "the reference is what the stage began with"
    assert kl[4] is None
    assert whole.rows[1]["stage_ended"] == "2 steps"

    class Died(Exception):
        pass

    def dies(row):
        if row["step"] == 3:
            raise Died

    parted = config(tmp_path / "parted", steps=6, save_every=3).replace(stages=stages)
    with pytest.raises(Died):
        await train(parted, prompts(even), told=dies)
    model = tiny(initializer_range=0.1)
    result = await train(parted, prompts(even), model=model, resume=True)
    assert numbers(result.rows) == numbers(whole.rows)
    for a, b in zip(whole_model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


async def test_a_reset_of_the_reference_under_adapters(tmp_path):
    from m2gym.backends.local.backend import prepared

    stages = [{"steps": 2, "objective": "grpo", "kl": 0.1}, {"objective": "grpo", "kl": 0.1}]
    own = {"id": "local", "lora": {"rank": 4}}
    cfg = config(tmp_path, lr=3e-2, backend=own).replace(stages=stages)
    hooked = prepared(tiny(initializer_range=0.1), cfg)
    result = await LocalTrainer(cfg, hooked, prompts(even)).run()
    kl = [row["kl_reference"] for row in result.rows]
    assert kl[1] > 1e-6
    assert kl[2] == pytest.approx(0, abs=1e-6)
    assert kl[3] > 1e-7
    assert result.rows[-1]["engine_difference_max"] < 1e-3, "the adapters are put back"


async def test_the_time_of_a_step_is_told_by_part(tmp_path):
    from m2gym.backends.local.plots import share_outside, times

    result = await train(config(tmp_path, eval_every=2), prompts(even))
    for row in result.rows:
        parts = times(row)
        assert sum(parts.values()) == pytest.approx(row["seconds"], rel=0.02)
        assert min(parts.values()) >= 0
        assert parts["engine"] > 0 < parts["gradients"]
    assert 0 < share_outside(result.rows) < 1
    assert "held_out_before" in result.rows[0]


def batch(n=6, length=30):
    rng = np.random.default_rng(0)

    def episode(k):
        ids = rng.integers(3, VOCABULARY, length).astype(np.int32)
        zero = np.zeros(length, np.int32)
        prompt = rng.integers(3, VOCABULARY, 40).astype(np.int32)
        turn = PoolCompletion(prompt, ids, np.full(length, -4.0, np.float32), zero)
        return PoolTrajectory(str(k), (turn,), float(k % 2))

    return [[episode(k) for k in range(n)]]


def test_without_memory_an_update_is_done_in_smaller_parts():
    """The same gradient, whatever the parts; torch itself is made to fail on large tensors."""
    groups, weights = batch(), []
    for limited in (False, True):
        model = tiny(initializer_range=0.2)
        config = AlgorithmConfig()
        settings = TrainSettings(lr=1e-2, clip=None)
        learner = Learner(
            HookedModel(model), config, MasterAdamW(model, settings), micro_tokens=600
        )
        guard = LimitedMemory(200 if limited else 10**9)
        with guard:
            stats = learner.update(graded(groups, config), 0, 1e-2)
        assert stats["oom"] == (2 if limited else 0)
        assert stats["oversize"] == 0
        weights.append([p.detach().clone() for p in model.parameters()])
    assert learner.budget.tokens == 150
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_a_sample_that_fits_in_no_part_is_masked_and_the_last_resort_is_an_error():
    model = tiny(initializer_range=0.2)
    config = AlgorithmConfig()
    learner = Learner(
        HookedModel(model), config, MasterAdamW(model, TrainSettings()), micro_tokens=128
    )
    long = batch(2, length=60)[0] + batch(2, length=10)[0]
    with LimitedMemory(90):
        stats = learner.update(graded([long], config), 0, 1e-3)
    assert (stats["oom"], stats["oversize"]) == (1, 2)
    with LimitedMemory(1), pytest.raises(InfraError, match="longer than a micro-batch of 64"):
        learner.update(graded(batch(), config), 0, 1e-3)
    short = batch(4, length=4)
    short = [[replace(e, completions=(shorter(e.completions[0]),)) for e in short[0]]]
    learner.budget = Budget(600)
    with LimitedMemory(1), pytest.raises(InfraError, match="even in micro-batches"):
        learner.update(graded(short, config), 0, 1e-3)


def test_without_memory_for_its_moments_the_weights_stay_as_they_are():
    model = tiny(initializer_range=0.2)
    optimiser = MasterAdamW(model, TrainSettings())
    learner = Learner(HookedModel(model), AlgorithmConfig(), optimiser)
    before = [p.detach().clone() for p in model.parameters()]
    with NoRoomForAdam(), pytest.raises(InfraError, match=r"AdamW's moments.*backend\.lora"):
        learner.update(graded(batch(), AlgorithmConfig()), 0, 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert learner.update(graded(batch(), AlgorithmConfig()), 0, 1e-2)["grad_norm"] > 0


class NoRoomForAdam(torch.utils._python_dispatch.TorchDispatchMode):
    """A device on which AdamW finds no room."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._fused_adamw_.default:
            raise torch.OutOfMemoryError("no room")
        return function(*args, **(kwargs or {}))


def shorter(completion):
    return replace(completion, prompt_ids=completion.prompt_ids[:3])


class LimitedMemory(torch.utils._python_dispatch.TorchDispatchMode):
    """A device that has no room for embeddings of more than ``rows`` tokens."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.embedding.default and args[1].numel() > self.rows:
            raise torch.OutOfMemoryError("no room")
        return function(*args, **(kwargs or {}))
