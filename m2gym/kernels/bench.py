# mypy: disable-error-code="no-untyped-call"
"""Check and time every kernel beside its peers on this GPU: ``python -m m2gym.kernels.bench``.

Times are medians over CUDA events after a warm-up. Useful TFLOP/s count the products a model
needs once (no recomputation); extra memory is the peak above the inputs, without gradients of
weights and inputs. Errors are relative in norm against float64.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from m2gym.kernels import reference
from m2gym.kernels.experts import experts
from m2gym.kernels.logits import Head, logits_pass
from m2gym.kernels.logprobs import Cispo, policy_loss, token_logprobs
from m2gym.kernels.peers import (
    flex,
    grouped_mm,
    liger,
    plain_logprobs,
    prefix_tree,
    scattered,
    turns_tree,
)
from m2gym.kernels.tree_attention import tree_attention
from m2gym.kernels.tune import balanced, tune

Row = dict[str, Any]
M2 = (3072, 1536, 256, 8)
QWEN3_30B = (2048, 768, 128, 8)
TREES = {
    "16,384 + 8×1,024": (16384, 8, 1024),
    "32,768 + 16×512": (32768, 16, 512),
    "8,192 + 8×2,048": (8192, 8, 2048),
}


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


def peaks() -> Iterator[Row]:
    """The two ceilings of this card: a large product and a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    yield row("peak", "8192³ bf16 product", median_ms(lambda: a @ b), 2 * 8192**3)
    x = torch.randn(2**30, device="cuda")
    y = torch.empty_like(x)
    ms = median_ms(lambda: y.copy_(x))
    yield row("peak", "copy of 4.3 GB", ms, tb_per_s=2 * x.numel() * 4 / ms / 1e9)


def routing(load: str, tokens: int, count: int, top_k: int) -> torch.Tensor:
    """Expert ids: equal loads, uniformly random ones, or Zipf's (weights 1 / rank)."""
    if load == "balanced":
        return balanced(tokens, count, top_k, "cuda")
    weights = torch.ones(count, device="cuda")
    if load == "zipf":
        weights = 1 / torch.arange(1, count + 1, device="cuda")[torch.randperm(count)]
    return torch.multinomial(weights.expand(tokens, count), top_k)


def _experts_inputs(shape: tuple[int, int, int, int], tokens: int, load: str) -> list[torch.Tensor]:
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
    inputs = _experts_inputs((3072, 1536, 16, 4), 700, "zipf")
    truth = [x.detach().double().requires_grad_() if x.is_floating_point() else x for x in inputs]
    want = reference.experts(*truth)
    upstream = torch.randn_like(want)
    want.backward(upstream)
    for how, call in (("ours", experts), ("grouped_mm", grouped_mm((3072, 1536, 16, 4)))):
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
    inputs = _experts_inputs(shape, tokens, load)
    leaves = [x for x in inputs if x.requires_grad]
    flops = 6.0 * tokens * top_k * hidden * inner
    upstream = torch.randn_like(inputs[0])
    name = "M2" if shape is M2 else "Qwen3-30B-A3B"
    calls: dict[str, Callable[..., torch.Tensor]] = {
        "ours": experts, "grouped_mm": grouped_mm(shape), "as ScatterMoE splits it": scattered,
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
            yield row(f"{work}, forward, CUDA graph", how, graphed_ms(forward), flops)
        elif not how.startswith("as "):  # written for the bench, forward only
            yield row(
                f"{work}, forward+backward", how, median_ms(both, 0.8), 3 * flops,
                gb=extra_gb(both, leaves),
            )  # fmt: skip


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


def bench_tree() -> Iterator[Row]:
    yield from _check_tree(*turns_tree(24))
    for name, sizes in TREES.items():
        yield from _time_tree(name, *prefix_tree(*sizes))
    yield from _time_tree("256 turns of 64–512", *turns_tree(256), large=(2**21, 2**62))


def _time_tree(
    name: str, starts: list[int], parents: list[int], large: Sequence[int] = ()
) -> Iterator[Row]:
    total = starts[-1]
    q, k, v = (
        torch.randn(total, n, 128, device="cuda").bfloat16().requires_grad_() for n in (48, 8, 8)
    )
    upstream = torch.randn_like(q)
    flops = 14.0 * 48 * 128 * _pairs(starts, parents)

    def ours(bound: int | None) -> Callable[..., torch.Tensor]:
        return lambda q, k, v: tree_attention(q, k, v, starts, parents, large=bound)

    calls = {"ours": ours(None)} | {f"ours, library from {b:,} pairs": ours(b) for b in large}
    calls["FlexAttention, compiled for this tree"] = flex(starts, parents)
    for how, call in calls.items():
        yield _tree_row(name, how, call, (q, k, v), upstream, flops)
    if large:  # a tree of agent turns: each is another
        how = "FlexAttention, compiled for any tree"
        yield _tree_row(name, how, flex(starts, parents, dynamic=True), (q, k, v), upstream, flops)


def _tree_row(
    name: str, how: str, call: Callable[..., torch.Tensor],
    leaves: tuple[torch.Tensor, torch.Tensor, torch.Tensor], upstream: torch.Tensor, flops: float,
) -> Row:  # fmt: skip
    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        call(*leaves).backward(upstream)

    ms = median_ms(both, 0.6)
    return row(f"tree attention, {name}", how, ms, flops, gb=extra_gb(both, leaves))


def _pairs(starts: list[int], parents: list[int]) -> int:
    """How many (query, key) pairs the tree's mask holds."""
    depth: list[int] = []
    pairs = 0
    for node, parent in enumerate(parents):
        size = starts[node + 1] - starts[node]
        above = depth[parent] if parent >= 0 else 0
        depth.append(above + size)
        pairs += size * above + size * (size + 1) // 2
    return pairs


def _check_tree(starts: list[int], parents: list[int]) -> Iterator[Row]:
    mask = reference.tree_mask(starts, parents).cuda()
    inputs = [torch.randn(starts[-1], n, 128, device="cuda").bfloat16() for n in (6, 2, 2)]
    truth = [x.double().requires_grad_() for x in inputs]
    want = reference.attention(truth[0], truth[1], truth[2], mask, 128**-0.5)
    upstream = torch.randn_like(want)
    want.backward(upstream)
    for large in (1, 2**18, 2**62):
        mine = [x.clone().requires_grad_() for x in inputs]
        out = tree_attention(mine[0], mine[1], mine[2], starts, parents, large=large)
        out.backward(upstream.to(out.dtype))
        errors = {"out": relative(out, want)}
        for name, a, b in zip(("d_query", "d_key", "d_value"), mine, truth, strict=True):
            assert a.grad is not None
            assert b.grad is not None
            errors[name] = relative(a.grad, b.grad)
        yield {"work": "tree attention, error against float64", "how": f"ours, large {large:,}"} | {
            k: float(f"{v:.2e}") for k, v in errors.items()
        }


def bench_layer() -> Iterator[Row]:
    """A whole M2 decoder layer, forward and backward, at four rows of 4,096 tokens."""
    from transformers import MiniMaxM2Config
    from transformers.models.minimax_m2 import modeling_minimax_m2 as m2

    from m2gym.kernels.register import fuse_norms, fuse_rotary, register

    register()
    for how, attention, fused in (
        ("m2_triton", "m2_tree", "norms and rotary"), ("m2_triton", "sdpa", "norms and rotary"),
        ("m2_triton", "sdpa", "norms"), ("m2_triton", "sdpa", ""), ("grouped_mm", "sdpa", ""),
    ):  # fmt: skip
        config = MiniMaxM2Config(
            hidden_size=3072, intermediate_size=1536, num_local_experts=256,
            num_experts_per_tok=8, num_attention_heads=48, num_key_value_heads=8, head_dim=128,
            num_hidden_layers=1, vocab_size=256, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        config._attn_implementation = attention
        config._experts_implementation = how
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            layer = m2.MiniMaxM2DecoderLayer(config, 0)
            rope = m2.MiniMaxM2RotaryEmbedding(config)
        torch.set_default_dtype(torch.float32)
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.02) if p.dim() > 1 else torch.nn.init.ones_(p)
        name = f"{how}, {attention}"
        if fused:
            fuse_norms(layer)
            name = f"{name}, fused {fused}"
        if "rotary" in fused:
            fuse_rotary(layer)
        trees = attention == "m2_tree"
        x = torch.randn(1 if trees else 4, 16384 if trees else 4096, 3072, device="cuda")
        x = x.bfloat16().requires_grad_()
        where = rope(x, (torch.arange(x.shape[1], device="cuda") % 4096)[None])
        four = {"tree": (list(range(0, 16385, 4096)), [-1] * 4)} if trees else {}
        upstream = torch.randn_like(x)

        def both(
            layer: Any = layer, x: torch.Tensor = x, where: Any = where,
            upstream: torch.Tensor = upstream, four: Any = four,
        ) -> None:  # fmt: skip
            layer.zero_grad(set_to_none=True)
            x.grad = None
            out = layer(x, position_embeddings=where, attention_mask=None, **four)
            (out[0] if isinstance(out, tuple) else out).backward(upstream)

        leaves = [x, *layer.parameters()]
        yield row(
            "whole M2 layer, 4 × 4,096, forward+backward", name,
            median_ms(both, 0.8), gb=extra_gb(both, leaves),
        )  # fmt: skip
        del layer, x, both, leaves, upstream
        gc.collect()
        torch.cuda.empty_cache()


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "peaks": peaks,
    "experts": bench_experts,
    "logprobs": bench_logprobs,
    "tree": bench_tree,
    "layer": bench_layer,
}


def run(parts: Sequence[str] | None = None) -> list[Row]:
    """Check and time the named parts (all by default); a row a measurement, printed as it comes.

    Raises:
        RuntimeError: no NVIDIA GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("m2gym.kernels.bench needs an NVIDIA GPU; none is visible to torch")
    card = torch.cuda.get_device_name()
    rows: list[Row] = []
    for part in parts or PARTS:
        torch.manual_seed(0)
        for entry in PARTS[part]():
            rows.append(entry | {"card": card})
            rest = "  ".join(f"{k} {v}" for k, v in entry.items() if k not in ("work", "how"))
            print(f"{entry['work']:56s} {entry['how']:38s} {rest}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m m2gym.kernels.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="parts to run")
    parser.add_argument("--out", type=Path, help="write the rows here as JSON")
    parser.add_argument("--tune", action="store_true", help="time tile shapes instead")
    parser.add_argument("--tokens", type=int, default=16384, help="with --tune: tokens of the load")
    chosen = parser.parse_args(arguments)
    if chosen.tune:
        tune(chosen.tokens, *M2, ["up", "down", "d_inner", "d_rows", "d_down", "d_gate_up"])
        return 0
    rows = run(chosen.only)
    if chosen.out:
        chosen.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
