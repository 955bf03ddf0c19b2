# mypy: disable-error-code="no-untyped-call"
"""Log-probabilities over a large vocabulary, beside Liger's fused losses and plain torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from m2gym.kernels import reference
from m2gym.kernels.bench.measure import Row, extra_gb, median_ms, row
from m2gym.kernels.logits import Head, logits_pass
from m2gym.kernels.logprobs import Cispo, policy_loss, token_logprobs
from m2gym.kernels.peers import liger, plain_logprobs


def bench_logprobs() -> Iterator[Row]:
    tokens, width, vocabulary = 16384, 3072, 200064
    h = torch.randn(tokens, width, device="cuda").bfloat16().requires_grad_()
    w = (torch.randn(vocabulary, width, device="cuda") * width**-0.5).bfloat16().requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device="cuda")
    ones = torch.ones(tokens, device="cuda")
    flops = 6.0 * tokens * width * vocabulary
    with torch.no_grad():
        some = slice(0, 256)
        want, want_entropy = reference.token_logprobs(h[some].double(), w.double(), targets[some])
        got, entropy = token_logprobs(h[some], w, targets[some])
        plain = plain_logprobs(h[some], w, targets[some])
    for how, value, right in (("ours", got, want), ("ours, entropy", entropy, want_entropy),
                              ("bf16 logits", plain, want)):  # fmt: skip
        yield {"work": "logprobs, largest error, nats", "how": how,
               "error": float(f"{float((value - right).abs().max()):.2e}")}  # fmt: skip
    del want, want_entropy

    def ours(dtype: torch.dtype, chunk: int | None = None) -> Callable[[], None]:
        def call() -> None:
            h.grad = w.grad = None
            policy_loss(
                h, w, targets, ones, got_all, ones, Cispo(), entropy_coefficient=0.001,
                chunk=chunk, weight_grad_dtype=dtype,
            ).loss.backward()  # fmt: skip

        return call

    def again() -> None:
        h.grad = w.grad = None
        token_logprobs(h, w, targets)[0].sum().backward()

    def chunked() -> None:
        h.grad = w.grad = None
        total = torch.zeros((), device="cuda")
        for part, t in zip(torch.split(h, 2048), torch.split(targets, 2048), strict=True):
            value: Any = checkpoint(plain_logprobs, part, w, t, use_reentrant=False)
            total = total + value.sum()
        total.backward()

    def plain_all() -> None:
        h.grad = w.grad = None
        plain_logprobs(h, w, targets).sum().backward()

    def ligers(entry: str) -> Callable[[], None]:
        def call() -> None:
            h.grad = w.grad = None
            liger(h, w, targets, got_all, entry)().backward()

        return call

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return token_logprobs(h, w, targets)[0]

    got_all = forward()
    work = "logprobs, 16,384 × 200,064, forward+backward"
    yield row("logprobs, 16,384 × 200,064, forward", "ours", median_ms(forward), flops / 3,
              gb=extra_gb(forward))  # fmt: skip
    calls: dict[str, Callable[[], Any]] = {
        "ours, policy loss, dW bf16": ours(torch.bfloat16),
        "ours, policy loss, dW fp32": ours(torch.float32),
        "ours, policy loss, dW bf16, 2,432 rows": ours(torch.bfloat16, 2432),
        "ours, any loss (logits twice)": again,
        "Liger, fused linear cross-entropy": ligers("cross_entropy"),
        "Liger, fused linear CISPO": ligers("cispo"),
        "torch, chunks of 2,048 with checkpoint": chunked,
        "torch, plain": plain_all,
    }
    yield from _products(h.detach(), w.detach(), targets)
    for how, call in calls.items():
        try:
            yield row(work, how, median_ms(call, 0.5), flops, gb=extra_gb(call, [h, w]))
        except torch.OutOfMemoryError:
            yield {"work": work, "how": how, "ms": "out of memory"}
        except ImportError:
            yield {"work": work, "how": how, "ms": "liger-kernel is not installed"}
        h.grad = w.grad = None
        gc.collect()
        torch.cuda.empty_cache()


def _products(h: torch.Tensor, w: torch.Tensor, targets: torch.Tensor) -> Iterator[Row]:
    """The three products alone, by cuBLAS, on real gradients: the bound of every way."""
    rows, tokens = 1408, len(h)
    outputs = {
        name: torch.zeros(tokens, device="cuda") for name in ("logprobs", "entropies", "losses")
    }
    ones = torch.ones(tokens, device="cuda")
    head = Head(h, w, targets, 1.0, -100, rows)
    given = {"slopes": ones, "entropy_slopes": 0 * ones}
    grad = logits_pass(head, 0, rows, outputs, inputs=given, buffer=head.buffer())
    assert grad is not None
    logits = torch.empty(rows, len(w), device="cuda", dtype=h.dtype)
    d_hidden, d_weight = torch.empty_like(h[:rows]), torch.zeros_like(w)
    total = 0.0
    for name, call in {
        "logits": lambda: torch.mm(h[:rows], w.T, out=logits),
        "gradient of hidden": lambda: torch.mm(grad, w, out=d_hidden),
        "gradient of the head, added": lambda: d_weight.addmm_(grad.T, h[:rows]),
    }.items():
        ms = median_ms(call, 0.2) * tokens / rows
        total += ms
        yield row("logprobs, products alone", name, ms, 2.0 * h.numel() * len(w))
    yield row("logprobs, products alone", "all three", total, 6.0 * h.numel() * len(w))
