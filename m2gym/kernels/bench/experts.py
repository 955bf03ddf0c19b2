# mypy: disable-error-code="no-untyped-call"
"""The experts, beside transformers' two ways (a loop, grouped products) and ScatterMoE's split."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from m2gym.kernels import reference
from m2gym.kernels.bench.measure import (
    M2,
    QWEN3_30B,
    Row,
    extra_gb,
    graphed_ms,
    median_ms,
    relative,
    row,
)
from m2gym.kernels.experts import experts
from m2gym.kernels.fp8 import quantize_experts
from m2gym.kernels.peers import eager, grouped_mm, scattered
from m2gym.kernels.tune import balanced


def routing(load: str, tokens: int, count: int, top_k: int) -> torch.Tensor:
    """Expert ids: equal loads, uniformly random ones, or Zipf's (weights 1 / rank)."""
    if load == "balanced":
        return balanced(tokens, count, top_k, "cuda")
    weights = torch.ones(count, device="cuda")
    if load == "zipf":
        weights = 1 / torch.arange(1, count + 1, device="cuda")[torch.randperm(count)]
    return torch.multinomial(weights.expand(tokens, count), top_k)


def experts_inputs(shape: tuple[int, int, int, int], tokens: int, load: str) -> list[torch.Tensor]:
    hidden, inner, count, top_k = shape

    def draw(*size: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*size, device="cuda", dtype=torch.bfloat16) * scale).requires_grad_()

    weights = torch.rand(tokens, top_k, device="cuda") + 0.1
    weights = (weights / weights.sum(1, keepdim=True)).requires_grad_()
    return [
        draw(tokens, hidden), draw(count, 2 * inner, hidden, scale=hidden**-0.5),
        draw(count, hidden, inner, scale=inner**-0.5), routing(load, tokens, count, top_k),
        weights,
    ]  # fmt: skip


def check_experts() -> Iterator[Row]:
    """Output and gradients against float64, at M2's widths and an uneven load."""
    inputs = experts_inputs((3072, 1536, 16, 4), 700, "zipf")
    truth = [x.detach().double().requires_grad_() if x.is_floating_point() else x for x in inputs]
    want = reference.experts(*truth)
    upstream = torch.randn_like(want)
    want.backward(upstream)
    calls = {
        "ours": experts, "grouped_mm": grouped_mm((3072, 1536, 16, 4)),
        "ours, forward in fp8": _in_fp8(inputs),
    }  # fmt: skip
    for how, call in calls.items():
        for x in inputs:
            x.grad = None
        out = call(*inputs)
        out.backward(upstream.to(out.dtype))
        errors = {"out": relative(out, want)}
        for name, mine, right in zip(
            ("d_hidden", "d_gate_up", "d_down", "", "d_weights"), inputs, truth, strict=True
        ):
            if mine.grad is not None and right.grad is not None:
                errors[name] = relative(mine.grad, right.grad)
        yield {"work": "experts, error against float64", "how": how} | {
            k: float(f"{v:.2e}") for k, v in errors.items()
        }


def _in_fp8(inputs: Sequence[torch.Tensor]) -> Callable[..., torch.Tensor]:
    return partial(experts, fp8=quantize_experts(inputs[1], inputs[2]))


def bench_experts() -> Iterator[Row]:
    yield from check_experts()
    cases = [(M2, 256, "random"), (M2, 16384, "balanced"), (M2, 16384, "random"),
             (M2, 16384, "zipf"), (M2, 65536, "balanced"), (M2, 65536, "zipf"),
             (QWEN3_30B, 16384, "balanced"), (QWEN3_30B, 16384, "zipf")]  # fmt: skip
    for shape, tokens, load in cases:
        yield from _time_experts(shape, tokens, load)
        gc.collect()
        torch.cuda.empty_cache()


def _time_experts(shape: tuple[int, int, int, int], tokens: int, load: str) -> Iterator[Row]:
    hidden, inner, _, top_k = shape
    inputs = experts_inputs(shape, tokens, load)
    leaves = [x for x in inputs if x.requires_grad]
    flops = 6.0 * tokens * top_k * hidden * inner
    upstream = torch.randn_like(inputs[0])
    name = "M2" if shape is M2 else "Qwen3-30B-A3B"
    calls: dict[str, Callable[..., torch.Tensor]] = {
        "ours": experts, "grouped_mm": grouped_mm(shape), "as ScatterMoE splits it": scattered,
        "eager": eager(shape), "ours, forward in fp8": _in_fp8(inputs),
    }  # fmt: skip
    for how, call in calls.items():
        if how.startswith("as ") and tokens <= 256:
            continue  # its tiles of 128 rows would hold one row each

        def forward(call: Callable[..., torch.Tensor] = call) -> None:
            with torch.no_grad():
                call(*inputs)

        def both(call: Callable[..., torch.Tensor] = call) -> None:
            for leaf in leaves:
                leaf.grad = None
            call(*inputs).backward(upstream)

        work = f"experts {name}, {tokens:,} tokens, {load}"
        yield row(f"{work}, forward", how, median_ms(forward), flops, gb=extra_gb(forward))
        if tokens <= 256:
            if how != "eager":  # it asks the host which experts have tokens
                yield row(f"{work}, forward, CUDA graph", how, graphed_ms(forward), flops)
        elif not how.startswith("as "):  # written for the bench, forward only
            yield row(
                f"{work}, forward+backward", how, median_ms(both, 0.8), 3 * flops,
                gb=extra_gb(both, leaves),
            )  # fmt: skip

    ms = median_ms(lambda: quantize_experts(inputs[1], inputs[2]))
    held = sum(x.numel() * x.element_size() for x in inputs[1:3])
    yield row(f"experts {name}, weights to fp8", "ours", ms, tb_per_s=1.5 * held / ms / 1e9)
