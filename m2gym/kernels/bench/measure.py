# mypy: disable-error-code="no-untyped-call"
"""How the kernels are measured: medians over CUDA events, peak memory, errors in norm."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

Row = dict[str, Any]
M2 = (3072, 1536, 256, 8)
QWEN3_30B = (2048, 768, 128, 8)


def median_ms(call: Callable[[], Any], seconds: float = 0.4) -> float:
    """Median milliseconds of ``call``, after a warm-up, for about ``seconds``."""
    call()
    torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds * 1e3 and len(times) < 100):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def graphed_ms(call: Callable[[], Any]) -> float:
    """Median milliseconds of ``call`` replayed from a CUDA graph: without the host's launches."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return median_ms(graph.replay)


def extra_gb(call: Callable[[], Any], leaves: Sequence[torch.Tensor] = ()) -> float:
    """Peak memory of ``call`` above what was held before, without the leaves' gradients, GB."""
    for leaf in leaves:
        leaf.grad = None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    grads = sum(x.grad.numel() * x.grad.element_size() for x in leaves if x.grad is not None)
    return (peak - grads) / 1e9


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def row(work: str, how: str, ms: float, flops: float = 0.0, **more: Any) -> Row:
    entry: Row = {"work": work, "how": how, "ms": round(ms, 3)}
    if flops:
        entry["tflops"] = round(flops / ms / 1e9)
    return entry | {k: round(v, 4) if isinstance(v, float) else v for k, v in more.items()}
