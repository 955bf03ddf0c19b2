"""Refusals by name, and the first-use check."""

from __future__ import annotations

import pytest
import torch

from m2gym.core.errors import InputError
from m2gym.forge.soundness import (
    MergeMismatchError,
    MergeUnsoundError,
    check_merging,
    refuse_unsound,
)
from m2gym.forge.targets import score, targets_of
from m2gym.forge.tree import Sample, build_tree
from tests.forge.models import merged_logits, tiny_model

SAMPLES = [Sample.of([1, 2, 3, 4], [n, 6, 7]) for n in (5, 8, 9)]


def test_sound_models_pass():
    for kind in ("llama", "minimax_m2"):
        refuse_unsound(tiny_model(kind).config)


def test_unsound_models_are_refused_by_name():
    transformers = pytest.importorskip("transformers", reason="transformers is in extra 'train'")
    cases = [
        (transformers.MistralConfig(sliding_window=128), "sliding_window=128"),
        (transformers.MambaConfig(), "state-space"),
        (transformers.MiniMaxConfig(), "linear attention"),
        (transformers.FalconH1Config(), "beside"),
        (transformers.Gemma3Config(), "sliding"),
        (transformers.GPTNeoConfig(), "local attention"),
        (transformers.Gemma2Config(), "sliding"),
        (transformers.LlamaConfig(attention_dropout=0.1), "attention_dropout"),
        (transformers.MiniMaxM2Config(output_router_logits=True), "counts tokens"),
        (transformers.MiniMaxM2Config(router_jitter_noise=0.1), "jitter"),
    ]
    for config, reason in cases:
        with pytest.raises(MergeUnsoundError, match=reason):
            refuse_unsound(config)
    refuse_unsound(transformers.MistralConfig(sliding_window=None))


def scorer(model, spoil=False):
    def score_samples(samples):
        tree = build_tree(samples)
        logits = merged_logits(model, tree, "rectangles")
        if spoil and len(samples) > 1:
            logits = logits.roll(1, 0)
        return score(logits, targets_of(tree)).logprobs_M

    return score_samples


def test_check_passes_on_a_sound_model_and_leaves_grad_alone():
    model = tiny_model("minimax_m2")
    found = check_merging(scorer(model), SAMPLES, list(model.parameters()), tolerance=1e-9)
    assert max(found.values()) < 1e-9
    assert all(p.grad is None for p in model.parameters())


def test_check_refuses_a_disagreement():
    model = tiny_model("llama")
    with pytest.raises(MergeMismatchError, match="without merging"):
        check_merging(scorer(model, True), SAMPLES, list(model.parameters()), tolerance=1e-2)


def test_check_refuses_nan():
    model = tiny_model("llama")
    with torch.no_grad():
        next(model.parameters())[5] = float("nan")
    with pytest.raises(MergeMismatchError, match="nan"):
        check_merging(scorer(model), SAMPLES, list(model.parameters()), tolerance=1e-2)


def test_check_needs_two_samples():
    with pytest.raises(InputError, match="at least two"):
        check_merging(scorer(None), SAMPLES[:1], [], tolerance=1e-2)
