"""The mixture against a float64 reference: values, gradients and every awkward load."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from m2gym.kernels import reference, router
from m2gym.kernels.experts import experts
from m2gym.kernels.support import KernelRefusal

GRADS = ("hidden", "gate_up", "down", "weights")


def inputs(
    tokens: int, hidden: int, inner: int, count: int, top_k: int, dtype: torch.dtype, device: str
) -> dict[str, torch.Tensor]:
    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, device=device) * scale).to(dtype)

    return {
        "hidden": draw(tokens, hidden),
        "gate_up": draw(count, 2 * inner, hidden, scale=hidden**-0.5),
        "down": draw(count, hidden, inner, scale=inner**-0.5),
        "index": torch.rand(tokens, count, device=device).topk(top_k).indices,
        "weights": torch.rand(tokens, top_k, device=device),
    }


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    assert not got.isnan().any()
    got, want = got.detach().double(), want.detach()
    return float((got - want).norm() / want.norm().clamp(min=1e-30))


def check(case: dict[str, torch.Tensor], bound: float, align: int | None = None) -> None:
    """Output and all gradients within ``bound`` of float64, relative in norm."""
    ours = {k: v.clone().requires_grad_() if k in GRADS else v for k, v in case.items()}
    truth = {k: v.double().requires_grad_() if k in GRADS else v for k, v in case.items()}
    plan = align and router.plan(case["index"], case["gate_up"].shape[0], align)
    out = experts(*(ours[k] for k in ("hidden", "gate_up", "down", "index", "weights")),
                  plan=plan or None)  # fmt: skip
    want = reference.experts(**{f"{k}{s}": truth[k] for k, s in zip(
        ("hidden", "gate_up", "down", "index", "weights"),
        ("_T_H", "_E_2I_H", "_E_H_I", "_T_K", "_T_K"), strict=True)})  # fmt: skip
    assert relative(out, want) < bound
    upstream = torch.randn_like(out)
    out.backward(upstream)
    want.backward(upstream.double())
    for name in GRADS:
        got, right = ours[name].grad, truth[name].grad
        assert got is not None
        assert right is not None
        assert relative(got, right) < bound, name


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
def test_matches_float64(dtype: torch.dtype, bound: float, device: str) -> None:
    if device == "cpu" and dtype == torch.bfloat16:
        bound = 2.5e-2  # the interpreter truncates to bf16 where a card rounds
    check(inputs(37, 48, 32, 5, 2, dtype, device), bound)


@pytest.mark.parametrize("align", [16, 64, 128])
def test_every_tile_size(align: int, device: str) -> None:
    check(inputs(150, 64, 48, 3, 2, torch.float32, device), 1e-5, align)


def all_to_one(case: dict[str, torch.Tensor]) -> None:
    case["index"][:, 0] = 2
    case["index"][:, 1] = 3


def repeated(case: dict[str, torch.Tensor]) -> None:
    case["index"][::2] = 1


def zipf(case: dict[str, torch.Tensor]) -> None:
    scores = torch.rand_like(case["weights"][:, :1].expand(-1, 7)).log() / torch.arange(
        1, 8, device=case["index"].device
    ).pow(-1.2)
    case["index"] = scores.topk(case["index"].shape[1]).indices


def dropped(case: dict[str, torch.Tensor]) -> None:
    case["index"][::3, 0] = case["gate_up"].shape[0]


@pytest.mark.parametrize("change", [all_to_one, repeated, zipf, dropped])
def test_awkward_loads(change: Callable[[dict[str, torch.Tensor]], None], device: str) -> None:
    case = inputs(45, 32, 32, 7, 2, torch.float32, device)
    change(case)
    check(case, 1e-5)


def test_one_token(device: str) -> None:
    check(inputs(1, 32, 16, 4, 3, torch.float32, device), 1e-5)


@pytest.mark.parametrize(("hidden", "inner"), [(32, 11), (20, 16)])
def test_widths_that_are_no_multiples_of_16(hidden: int, inner: int, device: str) -> None:
    check(inputs(9, hidden, inner, 3, 2, torch.float32, device), 1e-5)


def test_no_token(device: str) -> None:
    case = inputs(0, 32, 16, 4, 3, torch.float32, device)
    hidden = case["hidden"].requires_grad_()
    out = experts(*case.values())
    assert out.shape == (0, 32)
    out.sum().backward()
    assert hidden.grad is not None


def test_experts_without_rows_get_zero_gradient(device: str) -> None:
    case = inputs(8, 32, 16, 6, 2, torch.float32, device)
    case["index"] = case["index"] % 2
    gate_up = case["gate_up"].requires_grad_()
    experts(*case.values()).sum().backward()
    assert gate_up.grad is not None
    assert (gate_up.grad[2:] == 0).all()
    assert (gate_up.grad[:2] != 0).any()


def test_nan_reaches_its_own_token_only(device: str) -> None:
    case = inputs(20, 32, 16, 4, 2, torch.float32, device)
    case["hidden"][7, 3] = float("nan")
    bad = experts(*case.values()).isnan().any(dim=1)
    assert bad.nonzero().flatten().tolist() == [7]


def test_nan_in_an_expert_reaches_its_own_tokens_only(device: str) -> None:
    case = inputs(12, 32, 16, 4, 2, torch.float32, device)
    case["gate_up"][2, 5, 1] = float("nan")
    out = experts(*case.values())
    assert torch.equal(out.isnan().any(dim=1), (case["index"] == 2).any(dim=1))


def test_equal_bits_every_time(device: str) -> None:
    case = inputs(60, 32, 32, 5, 2, torch.bfloat16, device)
    grads = []
    for _ in range(2):
        hidden = case["hidden"].clone().requires_grad_()
        down = case["down"].clone().requires_grad_()
        out = experts(hidden, case["gate_up"], down, case["index"], case["weights"])
        out.backward(torch.ones_like(out))
        grads.append((out.detach(), hidden.grad, down.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))  # type: ignore[arg-type]


def test_slices_of_columns_and_one_backward_only(device: str) -> None:
    """Wide enough that the backward permutes a quarter of the columns at a time."""
    case = inputs(20, 1024, 16, 2, 1, torch.float32, device)
    check(case, 1e-5)
    hidden = case["hidden"].requires_grad_()
    out = experts(*case.values()).sum()
    out.backward(retain_graph=True)
    with pytest.raises(KernelRefusal, match="once already"):
        out.backward()
    assert hidden.grad is not None


def test_no_grad_keeps_nothing(device: str) -> None:
    case = inputs(5, 32, 16, 4, 2, torch.float32, device)
    case["down"].requires_grad_()
    with torch.no_grad():
        assert experts(*case.values()).grad_fn is None


def test_the_routers_plan_is_taken(device: str) -> None:
    case = inputs(30, 32, 16, 4, 2, torch.float32, device)
    weights, index, plan = router.route(torch.randn(30, 4, device=device), None, 2, align=16)
    with_plan = experts(case["hidden"], case["gate_up"], case["down"], index, weights, plan=plan)
    without = experts(case["hidden"], case["gate_up"], case["down"], index, weights)
    torch.testing.assert_close(with_plan, without)


def odd_start(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, contiguous, from 4 bytes into another allocation."""
    room = tensor.new_empty(tensor.numel() + 1)
    room[1:] = tensor.flatten()
    return room[1:].view(tensor.shape)


REFUSED: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = {
    "two types": ("hidden", torch.Tensor.bfloat16, "cast first"),
    "float64 weights": ("weights", torch.Tensor.double, "weights torch.float64; cast first"),
    "whole weights": ("weights", torch.Tensor.int, "weights torch.int32; cast first"),
    "ids of floats": ("index", torch.Tensor.float, "index must be integers"),
    "truths for ids": ("index", torch.Tensor.bool, "index must be integers"),
    "another device": ("index", lambda x: x.to("meta"), "one device"),
    "a batch of rows": ("hidden", lambda x: x[None], "hidden must have 2 dimensions"),
    "flat ids": ("index", lambda x: x[:, 0], "index must have 2 dimensions"),
    "one expert's weights": ("gate_up", lambda x: x[0], "gate_up must have 3 dimensions"),
    "down transposed": ("down", lambda x: x.mT, r"down \(E, H, I\)"),
    "gate without up": ("gate_up", lambda x: x[:, 1:], "down"),
    "no expert": ("gate_up", lambda x: x[:0], "down"),
    "another width": ("hidden", lambda x: x[:, :16], "down"),
    "strides": ("down", lambda x: x.mT.contiguous().mT, "down must be contiguous"),
    "an odd place": ("gate_up", odd_start, "multiple of 16 bytes"),
    "ids of other tokens": ("index", lambda x: x[:3], "index and weights"),
    "fewer weights": ("weights", lambda x: x[:, :1], "index and weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, device: str) -> None:
    part, change, message = REFUSED[name]
    case = inputs(5, 32, 16, 4, 2, torch.float32, device)
    with pytest.raises(KernelRefusal, match=message):
        experts(**_named(case | {part: change(case[part])}))


def test_a_plan_of_other_ids_is_refused(device: str) -> None:
    case = inputs(5, 32, 16, 4, 2, torch.float32, device)
    for ids, count, align in ((case["index"][:3], 4, 16), (case["index"], 3, 16),
                              (case["index"], 4, 4)):  # fmt: skip
        with pytest.raises(KernelRefusal, match="leave it out"):
            experts(**_named(case), plan=router.plan(ids, count, align))


def _named(case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    suffix = {"hidden": "_T_H", "gate_up": "_E_2I_H", "down": "_E_H_I"}
    return {k + suffix.get(k, "_T_K"): v for k, v in case.items()}
