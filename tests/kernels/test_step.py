"""A training step uses the kernels by one line of its configuration, ``backend: {experts: …}``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from m2gym.backends.local.backend import prepared
from m2gym.backends.local.gguf import model_folder
from m2gym.backends.local.hooked import load_causal
from m2gym.backends.local.trainer import LocalTrainer
from m2gym.kernels import register
from m2gym.models.nano.shape import SHAPE, build
from tests.backends.local.models import tiny
from tests.backends.local.test_trainer import config, prompts

MODELS: dict[str, Any] = {
    "an M2-shaped stack": lambda: tiny("minimax_m2", initializer_range=0.1),
    "a layer of m2-nano": lambda: build({**SHAPE, "num_hidden_layers": 1}),
    "m2-nano": lambda: load_causal(model_folder("m2-nano")),
}


@pytest.mark.parametrize(
    "name",
    [*[*MODELS][:2], pytest.param("m2-nano", marks=[pytest.mark.heavy, pytest.mark.timeout(1800)])],
)
async def test_a_training_step_by_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update from the same weights gives the same weights as without the line."""
    torch.manual_seed(0)
    model = MODELS[name]()
    calls: list[int] = []

    def counted(hidden: torch.Tensor, *rest: Any, **own: Any) -> torch.Tensor:
        calls.append(len(hidden))
        return kernels(hidden, *rest, **own)

    kernels = register.experts
    monkeypatch.setattr(register, "experts", counted)
    rows, weights = [], []
    for line in ({}, {"experts": "m2_triton"}):
        before = len(calls)
        cfg = config(
            tmp_path / str(len(rows)), steps=1, groups=1, group_size=2, max_tokens=2,
            backend={"id": "local", **line},
        )  # fmt: skip
        hooked = prepared(copy.deepcopy(model), cfg)
        rollouts = prompts(lambda task, ids: float(ids[0]), n=3)
        rows.append((await LocalTrainer(cfg, hooked, rollouts).run()).rows[0])
        weights.append(dict(hooked.base.named_parameters()))
        assert (len(calls) > before) == bool(line)
    plain, ours = rows
    assert ours["reward"] == plain["reward"]
    assert ours["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    assert ours["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-3)
    first = dict(model.named_parameters())
    for key, want in weights[0].items():
        moved = (want - first[key]).detach().norm()
        # AdamW's first step is a gradient's sign: that of next to nothing may be either.
        assert (weights[1][key] - want).detach().norm() <= 0.1 * moved, key
