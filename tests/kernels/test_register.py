"""Whole transformers models on the kernels, against their own eager path."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from m2gym.kernels import reference  # noqa: E402
from m2gym.kernels.register import (  # noqa: E402
    ATTENTION,
    EXPERTS,
    EXPERTS_FP8,
    attention_forward,
    experts_forward,
    fuse_norms,
    fuse_rotary,
    register,
)
from m2gym.kernels.support import KernelRefusal  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "num_experts_per_tok": 2,
}  # fmt: skip


def minimax_m2(**changes: Any) -> Any:
    config = transformers.MiniMaxM2Config(
        **{**SIZES, "num_local_experts": 4, "bos_token_id": 1, "eos_token_id": 2,
           "intermediate_size": 16, **changes},
    )  # fmt: skip
    return transformers.MiniMaxM2ForCausalLM(config)


def qwen3_moe(**changes: Any) -> Any:
    config = transformers.Qwen3MoeConfig(
        **SIZES, moe_intermediate_size=16, num_experts=4, intermediate_size=16, **changes
    )
    return transformers.Qwen3MoeForCausalLM(config)


def pair(make: Any, device: str, **settings: str) -> tuple[Any, Any]:
    """The same random weights with eager parts and with ours."""
    register()
    eager = make(attn_implementation="eager", experts_implementation="eager").to(device)
    config = copy.deepcopy(eager.config)
    for name, value in settings.items():
        setattr(config, f"_{name}", value)
    ours = type(eager)(config).to(device)
    ours.load_state_dict(eager.state_dict())
    return eager, ours


@pytest.mark.parametrize("make", [minimax_m2, qwen3_moe])
def test_experts_in_a_model(make: Any, device: str) -> None:
    eager, ours = pair(make, device, experts_implementation=EXPERTS, attn_implementation="eager")
    assert ours.config._experts_implementation == EXPERTS
    ids = torch.randint(0, 64, (2, 9), device=device)
    losses = [model(ids, labels=ids).loss for model in (eager, ours)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for (name, a), b in zip(eager.named_parameters(), ours.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None, name
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_experts_in_8_bits_follow_the_optimiser(device: str) -> None:
    make = partial(minimax_m2, intermediate_size=32, num_hidden_layers=1)
    eager, ours = pair(make, device, experts_implementation=EXPERTS_FP8,
                       attn_implementation="eager")  # fmt: skip
    eager, ours = eager.bfloat16(), ours.bfloat16()
    ids = torch.randint(0, 64, (1, 7), device=device)
    for model in (eager, ours):
        for parameter in model.parameters():
            parameter.data *= 3  # so that the experts say something
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (eager, ours)]
    losses: list[list[float]] = []
    for _ in range(2):
        losses.append([])
        for model, optimizer in zip((eager, ours), optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(ids, labels=ids).loss
            losses[-1].append(float(loss.detach()))
            loss.backward()
            optimizer.step()
    for expected, got in losses:
        assert got == pytest.approx(expected, rel=0.05)
    assert losses[1][1] < losses[0][1]
    layer = next(m for m in ours.modules() if hasattr(m, "_m2_fp8"))
    held = layer._m2_fp8
    ours(ids)
    assert layer._m2_fp8 is not held, "weights changed after the last forward"
    held = layer._m2_fp8
    ours(ids)
    assert layer._m2_fp8 is held


def test_tree_in_a_model(device: str) -> None:
    """The logits of a branch equal those of its own root-to-leaf sequence."""
    if device == "cuda":
        pytest.skip("cuDNN has no fp32 attention; the CPU run covers the wiring")
    eager, ours = pair(minimax_m2, device, attn_implementation=ATTENTION,
                       experts_implementation="eager")  # fmt: skip
    starts, parents = [0, 5, 8, 12], [-1, 0, 0]
    ids = torch.randint(0, 64, (1, 12), device=device)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8]], device=device)
    got = ours(ids, position_ids=positions, use_cache=False, tree=(starts, parents)).logits
    for rows in ([*range(8)], [*range(5), *range(8, 12)]):
        want = eager(ids[:, rows], use_cache=False).logits
        torch.testing.assert_close(got[:, rows], want, rtol=1e-4, atol=1e-5)
    assert reference.tree_mask(starts, parents).sum() == 15 + 3 * 5 + 6 + 4 * 5 + 10


def test_norms_in_a_model(device: str) -> None:
    eager, ours = pair(minimax_m2, device, attn_implementation="eager",
                       experts_implementation="eager")  # fmt: skip
    assert fuse_norms(ours) == 2 * 4 + 1
    ids = torch.randint(0, 64, (1, 7), device=device)
    losses = [model(ids, labels=ids).loss for model in (eager, ours)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for (name, a), b in zip(eager.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)
    with pytest.raises(KernelRefusal, match="no RMSNorm"):
        fuse_norms(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("rows", [1, 2])
def test_rotary_in_a_model(rows: int, device: str) -> None:
    eager, ours = pair(minimax_m2, device, attn_implementation="eager",
                       experts_implementation="eager")  # fmt: skip
    assert fuse_rotary(ours) == 2
    assert fuse_norms(ours) == 2 * 4 + 1
    ids = torch.randint(0, 64, (rows, 7), device=device)
    positions = torch.tensor([[0, 1, 2, 3, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10]], device=device)[:rows]
    losses = [model(ids, position_ids=positions, labels=ids).loss for model in (eager, ours)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for (name, a), b in zip(eager.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)
    made = [model.generate(ids, max_new_tokens=4, do_sample=False) for model in (eager, ours)]
    assert torch.equal(*made)
    with pytest.raises(KernelRefusal, match="no MiniMaxM2Attention"):
        fuse_rotary(qwen3_moe())


def test_refusals(device: str) -> None:
    register()
    model = minimax_m2(hidden_act="gelu", experts_implementation="eager").to(device)
    model.config._experts_implementation = EXPERTS
    ids = torch.randint(0, 64, (1, 4), device=device)
    with pytest.raises(KernelRefusal, match="silu"):
        model(ids)
    _, ours = pair(minimax_m2, device, attn_implementation=ATTENTION,
                   experts_implementation="eager")  # fmt: skip
    with pytest.raises(KernelRefusal, match="batch of 2"):
        ours(ids.repeat(2, 1), use_cache=False)
    padded = torch.ones_like(ids)
    whole = ours(ids, use_cache=False).logits
    assert torch.equal(ours(ids, attention_mask=padded, use_cache=False).logits, whole)
    padded[0, 0] = 0
    with pytest.raises(KernelRefusal, match="mask True"):
        ours(ids, attention_mask=padded, use_cache=False)
    ours.train()
    for layer in ours.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(KernelRefusal, match=r"dropout 0\.1"):
        ours(ids, use_cache=False)
    ours.eval()
    with pytest.raises(KernelRefusal, match="key-value cache"):
        ours.generate(ids, max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize(
    "own",
    [{"attention_mask": torch.ones(1, 1, 5, 5)}, {"sliding_window": 4}, {"softcap": 50.0},
     {"s_aux": torch.zeros(2)}, {"position_bias": torch.zeros(1)}, {"is_causal": False}],
    ids=lambda own: next(iter(own)),
)  # fmt: skip
def test_another_attention_is_refused(own: dict[str, Any], device: str) -> None:
    x = torch.zeros(1, 2, 5, 16, device=device).bfloat16()
    with pytest.raises(KernelRefusal, match=r"mask True|wants"):
        attention_forward(torch.nn.Identity(), x, x, x, **{"attention_mask": None, **own})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("has_gate", False, "no gate"), ("has_bias", True, "biases"),
     ("is_transposed", True, "another way"), ("is_concatenated", False, "another way")],
)  # fmt: skip
def test_other_experts_are_refused(name: str, value: bool, message: str, device: str) -> None:
    experts = minimax_m2().model.layers[0].mlp.experts.to(device)
    setattr(experts, name, value)
    with pytest.raises(KernelRefusal, match=message):
        experts_forward(experts, torch.zeros(1, 32), torch.zeros(1, 2), torch.zeros(1, 2))
