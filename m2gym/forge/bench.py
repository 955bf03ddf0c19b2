"""Figures of the Forge on this machine's CPU: ours beside the plain form, in one run.

``run()`` returns rows of ``{"bench", "case", "ours", "peer", "unit", "ratio", "note"}``; ``ratio``
is how much better ours is than the peer (above 1 is better). Takes about two minutes on two cores.
GPU figures with fused kernels are those of ``m2gym.kernels``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from m2gym.forge.attention import tree_attention
from m2gym.forge.layout import Ints, Layout
from m2gym.forge.objectives import Cispo, TokenBatch
from m2gym.forge.pack import Budget, pack
from m2gym.forge.parquet import export_parquet, import_parquet
from m2gym.forge.pool import DataPool
from m2gym.forge.records import PoolCompletion, PoolTrajectory
from m2gym.forge.shapes import recorded, shape
from m2gym.forge.simulate import SimConfig, sweep
from m2gym.forge.targets import Targets, score, targets_of
from m2gym.forge.tree import Sample, Tree, build_tree

Row = dict[str, Any]
VOCABULARY = 1024


def row(
    bench: str, case: str, ours: float, peer: float | None, unit: str, note: str, *, less: bool
) -> Row:
    """One figure; ``less``: smaller is better."""
    ratio = None
    if peer is not None and ours and peer:
        ratio = peer / ours if less else ours / peer
    return {
        "bench": bench,
        "case": case,
        "ours": ours,
        "peer": peer,
        "unit": unit,
        "ratio": ratio,
        "note": note,
    }


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Layout], torch.Tensor]
"""(q_H_T_D, k_K_T_D, v_K_T_D, layout) -> H x T x D."""


def _rectangles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> torch.Tensor:
    return tree_attention(q, k, v, layout, backend="rectangles")


class Decoder(nn.Module):
    """A plain Llama-type decoder over a packed row: what the measurement needs and no more.

    ``attend``: the attention; ``recompute``: blocks are computed again in the backward pass.
    """

    def __init__(
        self,
        hidden: int = 128,
        layers: int = 3,
        heads: int = 4,
        kv: int = 2,
        *,
        attend: Attend = _rectangles,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.attend, self.recompute = attend, recompute
        self.heads, self.kv, self.width = heads, kv, hidden // heads
        self.embed = nn.Embedding(VOCABULARY, hidden)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.ModuleDict(
                {
                    "norm1": nn.RMSNorm(hidden),
                    "qkv": nn.Linear(hidden, (heads + 2 * kv) * self.width, bias=False),
                    "out": nn.Linear(hidden, hidden, bias=False),
                    "norm2": nn.RMSNorm(hidden),
                    "up": nn.Linear(hidden, 8 * hidden, bias=False),
                    "down": nn.Linear(4 * hidden, hidden, bias=False),
                }
            )
            self.blocks.append(block)
        self.norm = nn.RMSNorm(hidden)
        self.head = nn.Linear(hidden, VOCABULARY, bias=False)

    def forward(self, ids_T: torch.Tensor, layout: Layout, position_P: torch.Tensor) -> Any:
        """Logits at the positions that predict something, P x V."""
        x = self.embed(ids_T)
        position_T = torch.as_tensor(layout.position_T, device=x.device)
        turn = torch.pow(1e4, -torch.arange(0, self.width, 2, device=x.device) / self.width)
        angle = position_T[:, None] * turn
        cos, sin = (f(angle).repeat(1, 2).to(x.dtype) for f in (torch.cos, torch.sin))
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(self._block, block, x, cos, sin, layout, use_reentrant=False)
            else:
                x = self._block(block, x, cos, sin, layout)
        return self.head(self.norm(x[position_P]))

    def _block(
        self, block: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        def rotate(t: torch.Tensor) -> torch.Tensor:
            a, b = t.chunk(2, -1)
            return t * cos + torch.cat([-b, a], -1) * sin

        qkv = block["qkv"](block["norm1"](x)).view(len(x), -1, self.width).transpose(0, 1)
        q, k, v = qkv.split([self.heads, self.kv, self.kv])
        mixed = self.attend(rotate(q), rotate(k), v, layout)
        x = x + block["out"](mixed.transpose(0, 1).reshape(len(x), -1))
        gate, up = block["up"](block["norm2"](x)).chunk(2, -1)
        out: torch.Tensor = x + block["down"](nn.functional.silu(gate) * up)
        return out

    def work(self, layout: Layout, predicted: int) -> float:
        """Multiply-adds of a forward pass: matmuls by token, attention by pair."""
        per_token = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)
        per_pair = 2 * self.heads * self.width * len(self.blocks)
        return (
            layout.tokens * per_token
            + layout.pairs * per_pair
            + predicted * self.head.weight.numel()
        )


def unmerged_row(samples: list[Sample]) -> tuple[Ints, Layout, Targets]:
    """The samples end to end in one row, each its own root: packed, not padded, training."""
    lengths = [len(sample.ids_T) for sample in samples]
    layout = Layout.from_parents([-1] * len(samples), lengths)
    trees = [build_tree([sample]) for sample in samples]
    parts = [targets_of(tree) for tree in trees]
    offsets = np.cumsum([0, *lengths[:-1]])
    pair_offsets = np.cumsum([0, *[len(part.target_P) for part in parts[:-1]]])
    targets = Targets(
        np.concatenate([p.position_P + at for p, at in zip(parts, offsets, strict=True)]),
        np.concatenate([p.target_P for p in parts]),
        np.concatenate([p.pair_M + at for p, at in zip(parts, pair_offsets, strict=True)]),
        np.repeat(np.arange(len(parts)), [len(p.pair_M) for p in parts]),
        np.concatenate([p.old_logprobs_M for p in parts]),
    )
    return np.concatenate([sample.ids_T for sample in samples]), layout, targets


def group(prompt: int, own: int, members: int, seed: int = 0) -> list[Sample]:
    """A group: one prompt, ``members`` responses."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, VOCABULARY, prompt)
    return [
        Sample.of(shared, rng.integers(0, VOCABULARY, own), np.full(own, -6.9))
        for _ in range(members)
    ]


def agent_runs(members: int = 4, turns: int = 8, seed: int = 0) -> list[Sample]:
    """A generated group of agent runs: each turn a sample that extends the last; one rewrites its
    history half-way (reasoning dropped), one calls a sub-agent with a prompt of its own."""
    rng = np.random.default_rng(seed)

    def text(n: int) -> Ints:
        return rng.integers(0, VOCABULARY, n)

    samples = []
    prompt = text(400)
    for member in range(members):
        context = prompt
        for turn in range(turns):
            response = text(int(rng.integers(20, 80)))
            samples.append(Sample.of(context, response, np.full(len(response), -6.9)))
            context = np.concatenate([context, response, text(int(rng.integers(40, 160)))])
            if member == 1 and turn == turns // 2:
                kept = len(prompt) + (len(context) - len(prompt)) // 3
                context = np.concatenate([context[:kept], context[kept + 40 :]])
            if member == 2 and turn == 2:
                inner = text(200)
                for _ in range(3):
                    answer = text(40)
                    samples.append(Sample.of(inner, answer, np.full(40, -6.9)))
                    inner = np.concatenate([inner, answer, text(60)])
    return samples


def train_step(
    model: Decoder, ids_T: Ints, layout: Layout, targets: Targets, sample: int = 0
) -> None:
    """Forward and backward of CISPO; gradients add up. ``sample``: number of the first sample."""
    device = model.head.weight.device
    position_P = torch.as_tensor(targets.position_P, device=device)
    logits = model(torch.as_tensor(ids_T, device=device), layout, position_P)
    local = Targets(
        np.arange(len(targets.position_P)),
        targets.target_P,
        targets.pair_M,
        targets.sample_M,
        targets.old_logprobs_M,
    )
    scores = score(logits, local)
    sample_M = torch.as_tensor(targets.sample_M, device=device)
    advantage_M = torch.where((sample_M + sample) % 2 == 0, 1.0, -1.0)
    old_M = torch.as_tensor(targets.old_logprobs_M, dtype=torch.float32, device=device)
    batch = TokenBatch(scores.logprobs_M, old_M, advantage_M, sample_M, total_tokens=1024)
    torch.autograd.backward(Cispo()(batch).value)


def gradient(model: Decoder) -> torch.Tensor:
    """All gradients, flat, and forgotten."""
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(grads)


def _measure(merged: bool, samples: list[Sample], repeats: int) -> tuple[float, float, float, Any]:
    """In a process of its own, one thread: median CPU seconds (others may use the machine), growth
    of the peak in MB, work, gradients."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Decoder()
    train_step(model, *_parts(build_tree(samples[:1])))
    gradient(model)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = _parts(build_tree(samples)) if merged else unmerged_row(samples)
    times = []
    grads = torch.empty(0)
    for _ in range(repeats):
        started = time.process_time()
        train_step(model, *parts)
        grads = gradient(model)
        times.append(time.process_time() - started)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    work = model.work(parts[1], len(parts[2].target_P))
    return statistics.median(times), peak, work, grads.numpy()


def _recorded(agent: str) -> list[Sample]:
    return shape(agent).tokens(VOCABULARY)


def bench_recorded() -> list[Row]:
    """What merging saves at most on the trees recorded from released agents, by work of an
    M2-shaped layer (multiply-adds of its matmuls and attention), not by time."""
    rows = []
    token, pair = 3072 * 128 * 112 + 8 * 3 * 3072 * 1536 + 256 * 3072, 2 * 48 * 128
    for agent, found in recorded().items():
        tree = build_tree(found.tokens(200_000))
        merged = tree.tokens * token + tree.layout.pairs * pair
        alone = tree.unmerged_tokens * token + tree.unmerged_pairs * pair
        case = (
            f"4 runs of {agent}: {len(found.samples)} completions, {len(found.lengths_N)} nodes, "
            f"{tree.unmerged_tokens:,} tokens merged to {tree.tokens:,}"
        )
        rows.append(row("tree ideal", case, merged / 1e12, alone / 1e12, "10^12 multiply-adds",
                        "work, not time", less=True))  # fmt: skip
    return rows


def _parts(tree: Tree) -> tuple[Ints, Layout, Targets]:
    return tree.ids_T, tree.layout, targets_of(tree)


def bench_tree(repeats: int = 3) -> list[Row]:
    """Forward and backward, merged against unmerged packed training, beside the ideal."""
    cases: list[tuple[str, Callable[[], list[Sample]]]] = [
        ("group 8 x (1,024 shared + 128 own)", lambda: group(1024, 128, 8)),
        ("group 16 x (512 shared + 32 own)", lambda: group(512, 32, 16)),
        ("4 generated agent runs of 8 turns, rewritten history, sub-agent", agent_runs),
        ("4 recorded runs of mini-swe-agent", partial(_recorded, "mini-swe-agent")),
    ]
    rows = []
    context = multiprocessing.get_context("spawn")
    for name, make in cases:
        results = []
        for merged in (True, False):
            with ProcessPoolExecutor(1, mp_context=context) as alone:
                results.append(alone.submit(_measure, merged, make(), repeats).result())
        (ours, our_mb, work, grad), (peer, peer_mb, all_work, reference) = results
        ideal = all_work / work
        error = float(np.linalg.norm(grad - reference) / np.linalg.norm(reference))
        note = (
            f"ideal {ideal:.2f}x by work, reached {peer / ours / ideal:.2f} of it; "
            f"gradients differ by {error:.1e} (float32)"
        )
        rows.append(row("tree step", name, ours, peer, "CPU s", note, less=True))
        rows.append(row("tree memory", name, our_mb, peer_mb, "MB", "growth of peak", less=True))
    return rows


def bench_build(repeats: int = 3) -> list[Row]:
    """Building and packing the tree of 1,000 sequences of 8k tokens."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 200_000, (125, 6000))
    own = rng.integers(0, 200_000, (1000, 2000))
    samples = [Sample.of(prompts[n % 125], own[n]) for n in range(1000)]
    times: dict[str, list[float]] = {"build": [], "build with targets": [], "pack": []}
    for _ in range(repeats):
        started = time.perf_counter()
        tree = build_tree(samples)
        times["build"].append(time.perf_counter() - started)
        targets_of(tree)
        times["build with targets"].append(time.perf_counter() - started)
        started = time.perf_counter()
        pack(samples, Budget(65_536))
        times["pack"].append(time.perf_counter() - started)
    case = "1,000 sequences of 8,000 tokens in 125 groups"
    return [
        row(f"tree {name}", case, statistics.median(values), None, "s", "", less=True)
        for name, values in times.items()
    ]


def bench_window(seeds: int = 20) -> list[Row]:
    """Windowed FIFO at W = 0.3 N against greedy; strict beside them."""
    cases = {
        "rounds of N=64, B=16": SimConfig(refill="rounds", load=0.2, steps=64),
        "rounds, 2 % stragglers of 50x": SimConfig(
            refill="rounds", load=0.2, steps=64, straggler_share=0.02
        ),
        "rounds of N=256, B=16": SimConfig(refill="rounds", capacity=256, load=0.2, steps=64),
        "rounds of N=256, B=64": SimConfig(
            refill="rounds", capacity=256, batch=64, load=0.2, steps=64
        ),
        "rounds of N=256, B=64, 2 % stragglers of 50x": SimConfig(
            refill="rounds", capacity=256, batch=64, load=0.2, steps=64, straggler_share=0.02
        ),
        "rounds of N=512, B=128": SimConfig(
            refill="rounds", capacity=512, batch=128, load=0.2, steps=64
        ),
        "continuous refill, N=256, B=64": SimConfig(capacity=256, batch=64, load=0.2, steps=64),
        "continuous refill, N=64, B=16": SimConfig(steps=200),
        "continuous refill, N=256, 64 at once, B=16": SimConfig(steps=200, capacity=256, slots=64),
        "continuous, 2 % stragglers of 50x": SimConfig(steps=200, straggler_share=0.02),
        "continuous, stragglers, head cut at 2": SimConfig(
            steps=200, straggler_share=0.02, on_blocked="cut", patience=2.0
        ),
        "continuous, stragglers, head dropped at 2": SimConfig(
            steps=200, straggler_share=0.02, on_blocked="drop", patience=2.0
        ),
    }
    rows = []
    for name, config in cases.items():
        strict, windowed, greedy = sweep(config, [1, 0.3], seeds=range(seeds))
        for label, figures in (("W=1", strict), ("W=0.3N", windowed)):
            note = (
                f"{figures['of_greedy']:.3f}±{figures['of_greedy_ci']:.3f} of greedy's throughput,"
                f" {figures['shift_of_greedy']:.2f}±{figures['shift_of_greedy_ci']:.2f} of its "
                f"shift, {figures['excess_shift_of_greedy']:.2f} of its shift above a random "
                f"batch's; lag {figures['lag_versions_mean']:.1f} mean, "
                f"{figures['lag_versions_max']:.0f} max, bound {figures['lag_bound']:.0f}"
            )
            rows.append(
                row("window throughput", f"{name}; {label}", figures["throughput"],
                    greedy["throughput"], "items a unit of time", note, less=False)
            )  # fmt: skip
    return rows


def _write(path: str, count: int, batch: int, tokens: int) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 200_000, tokens).astype(np.int32)
    logprobs = -rng.random(tokens).astype(np.float32)
    prompt = ids[:512]
    with DataPool(path) as pool:
        for start in range(0, count, batch):
            pool.put(
                PoolTrajectory(
                    f"k{n}",
                    (PoolCompletion(prompt, ids, logprobs, np.full(tokens, n, np.int32)),),
                    1.0,
                )
                for n in range(start, min(start + batch, count))
            )


def bench_pool(count: int = 6000, tokens: int = 4096) -> list[Row]:
    """Completions with 4k response tokens (ids, logprobs, versions) through the pool: one process
    writes while another claims and commits."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "pool.db")
        context = multiprocessing.get_context("spawn")
        with DataPool(path) as pool:
            lease = pool.attach("bench", lease=600)
            writer = context.Process(target=_write, args=(path, count, 64, tokens))
            writer.start()
            seen, total, started = 0, 0.0, math.inf
            while seen < count:
                claim = lease.claim(64)
                if claim is None:
                    time.sleep(0.002)
                    continue
                started = min(started, time.perf_counter())
                for trajectory in claim.trajectories:
                    total += float(trajectory.completions[0].logprobs_T[-1])
                seen += len(claim.groups)
                lease.commit(claim.id)
            seconds = time.perf_counter() - started
            writer.join()
            pool.check()
            size = Path(path).stat().st_size / seen
    case = f"{count:,} completions of 512 + {tokens:,} tokens, one writer, one trainer"
    note = f"{size / 1024:.0f} KiB each on disk, integrity checked"
    return [row("pool", case, seen / seconds, None, "completions/s in and out", note, less=False)]


def bench_parquet(count: int = 2000, tokens: int = 4096) -> list[Row]:
    """A pool to Parquet and back, against pyarrow's own way through Python objects."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path, file = str(Path(folder) / "pool.db"), Path(folder) / "pool.parquet"
        _write(path, count, 64, tokens)
        with DataPool(path) as pool:
            started = time.perf_counter()
            export_parquet(pool, file)
            out = time.perf_counter() - started
        with DataPool(str(Path(folder) / "again.db")) as pool:
            started = time.perf_counter()
            import_parquet(pool, file)
            back = time.perf_counter() - started
        started = time.perf_counter()
        objects = pq.read_table(file).to_pylist()
        read = time.perf_counter() - started
        started = time.perf_counter()
        pq.write_table(pa.Table.from_pylist(objects), Path(folder) / "objects.parquet")
        written = time.perf_counter() - started
        size = file.stat().st_size / count / 1024
    case = f"{count:,} completions of 512 + {tokens:,} tokens"
    for name, ours, peer in (("export", out, written), ("import", back, read)):
        note = f"{size:.0f} KiB each; ours with the pool, pyarrow's Python objects alone"
        rows.append(
            row(f"parquet {name}", case, count / ours, count / peer, "completions/s", note,
                less=False)
        )  # fmt: skip
    return rows


BENCHES: dict[str, Callable[[], list[Row]]] = {
    "build": bench_build,
    "tree": bench_tree,
    "recorded": bench_recorded,
    "window": bench_window,
    "pool": bench_pool,
    "parquet": bench_parquet,
}


def run(only: list[str] | None = None) -> list[Row]:
    """All figures, or those of the named benches."""
    return [found for name in only or BENCHES for found in BENCHES[name]()]


def main() -> None:
    """``python -m m2gym.forge.bench [build tree recorded window pool parquet] [--json]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[[], *BENCHES], default=[])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for found in run(arguments.only):
        if arguments.json:
            print(json.dumps(found))
        else:
            peer = "" if found["peer"] is None else f" against {found['peer']:.4g}"
            ratio = "" if found["ratio"] is None else f" ({found['ratio']:.2f}x)"
            print(
                f"{found['bench']}: {found['case']}: {found['ours']:.4g}{peer} {found['unit']}"
                f"{ratio} {found['note']}"
            )


if __name__ == "__main__":
    main()
