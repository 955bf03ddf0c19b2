"""Weights arrive whole or not at all."""

from typing import Any

import pytest
import torch

from m2gym.backends.verl.weights import WeightMismatchError, fused, load_strictly
from tests.backends.local.models import tiny


def streamed(model: Any) -> dict[str, torch.Tensor]:
    """As verl streams them: one expert after the other."""
    out = {}
    for name, value in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            base = name.removesuffix(".gate_up_proj")
            for n, (gate, up) in enumerate(v.chunk(2) for v in value):
                out[f"{base}.{n}.gate_proj.weight"] = gate.clone()
                out[f"{base}.{n}.up_proj.weight"] = up.clone()
        elif name.endswith("experts.down_proj"):
            base = name.removesuffix(".down_proj")
            for n, down in enumerate(value):
                out[f"{base}.{n}.down_proj.weight"] = down.clone()
        else:
            out[name] = value.clone()
    return out


@pytest.mark.parametrize("kind", ["minimax_m2", "qwen3_moe", "llama"])
def test_a_model_takes_all_weights_of_another(kind: str) -> None:
    new, old = tiny(kind, seed=1), tiny(kind, seed=2)
    ids = torch.tensor([[1, 2, 3, 4]])
    assert not torch.equal(new(ids).logits, old(ids).logits)
    load_strictly(old, streamed(new))
    assert torch.equal(new(ids).logits, old(ids).logits)


def test_m2_has_experts_that_are_fused() -> None:
    names = streamed(tiny("minimax_m2"))
    assert any(name.endswith("experts.3.up_proj.weight") for name in names)
    own = {name.replace("mlp.experts", "block_sparse_moe.experts"): v for name, v in names.items()}
    roles = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for ours, theirs in roles.items():
        own = {
            (name.replace(ours, theirs) if ".experts." in name else name): v
            for name, v in own.items()
        }
    one, other = fused(names), fused(own)
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_tied_weights_may_be_left_out() -> None:
    new = tiny("llama", seed=1, tie_word_embeddings=True)
    old = tiny("llama", seed=2, tie_word_embeddings=True)
    given = streamed(new)
    given.pop("lm_head.weight", None)
    load_strictly(old, given)
    assert torch.equal(new.model.embed_tokens.weight, old.model.embed_tokens.weight)


def drop(name: str) -> Any:
    return lambda w: w.pop(next(n for n in w if name in n))


def rename(w: dict[str, torch.Tensor]) -> None:
    w["model.stray"] = w.pop("model.norm.weight")


def reshape(w: dict[str, torch.Tensor]) -> None:
    w["model.norm.weight"] = torch.ones(5)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop("experts.0.up_proj"), "experts.0 lacks up_proj"),
        (drop("q_proj"), "missing model.layers.0.self_attn.q_proj.weight"),
        (rename, "unexpected model.stray"),
        (reshape, r"model.norm.weight is \(5,\), expected \(32,\)"),
    ],
)
def test_what_does_not_fit_changes_nothing(spoil: Any, said: str) -> None:
    new, old = tiny("minimax_m2", seed=1), tiny("minimax_m2", seed=2)
    before = {name: value.clone() for name, value in old.state_dict().items()}
    given = streamed(new)
    spoil(given)
    with pytest.raises(WeightMismatchError, match=said):
        load_strictly(old, given)
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())


def test_a_left_out_expert_is_told() -> None:
    given = {n: v for n, v in streamed(tiny("minimax_m2")).items() if ".experts.1." not in n}
    with pytest.raises(WeightMismatchError, match=r"has experts \[0, 2, 3\], some left out"):
        fused(given)
