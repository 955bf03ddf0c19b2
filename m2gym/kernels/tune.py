"""The tuner: time tile shapes of every grouped product on this card, at one shape and load."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
import triton
from triton.testing import do_bench

from m2gym.kernels import router
from m2gym.kernels.fp8 import quantize_experts, quantize_rows
from m2gym.kernels.grouped import over_rows, sum_rows
from m2gym.kernels.rows import permute
from m2gym.kernels.tuning import Product, Tiles, row_tile


def candidates(product: Product, align: int) -> Iterator[Tiles]:
    """Shapes worth a try: those that fit Hopper's 227 KB of shared memory and its registers."""
    if align == 16:
        for cols, depth, stages in itertools.product((64, 128), (64, 128), (4, 6)):
            yield Tiles(16, cols, depth, 4, stages, swap=True, group=1)
        return
    wide = (128,) if product == "up" else (128, 256)
    rows = 128 if product.startswith(("d_down", "d_gate")) else align
    for cols, stages, specialize, group in itertools.product(
        wide, (3, 4), (False, True), (4, 8, 16)
    ):
        warps = 4 if rows * cols < 128 * 128 or (rows == 64 and product != "up") else 8
        if (rows + cols * (2 if product == "up" else 1)) * 64 * 2 * stages <= 220 * 1024:
            yield Tiles(rows, cols, 64, warps, stages, specialize=specialize, group=group)


def balanced(tokens: int, experts: int, top_k: int, device: str) -> torch.Tensor:
    """Ids with equal loads: every expert gets tokens · top_k / experts slots."""
    ids = torch.arange(tokens * top_k, device=device).view(tokens, top_k) % experts
    return ids[torch.randperm(tokens, device=device)]


def tune(
    tokens: int, hidden: int, inner: int, experts: int, top_k: int, products: list[Product],
    tried: dict[Product, list[Tiles]] | None = None, *, fp8: bool = False,
) -> list[tuple[Product, Tiles, float]]:  # fmt: skip
    """Milliseconds of every candidate, fastest first within a product.

    A candidate that the compiler or the card refuses is left out, and says so. ``fp8``: the two
    forward products from 8-bit operands, in tiles twice as deep.
    """
    device, dtype = "cuda", torch.bfloat16
    align = row_tile(tokens * top_k, experts)
    plan = router.plan(balanced(tokens, experts, top_k, device), experts, align)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype) * 0.05

    gate_up, down = draw(experts, 2 * inner, hidden), draw(experts, hidden, inner)
    wide, narrow = permute(draw(tokens, hidden), plan), permute(draw(tokens, inner), plan)
    double = permute(draw(tokens, 2 * inner), plan)
    scales: list[tuple[torch.Tensor, torch.Tensor] | None] = [None, None]
    if fp8:
        held = quantize_experts(gate_up, down)
        small = [quantize_rows(rows) for rows in (wide, narrow)]
        wide, narrow = (rows.values_R_K for rows in small)
        gate_up, down = (
            new.values_R_K.view(old.shape)
            for new, old in ((held.gate_up, gate_up), (held.down, down))
        )
        scales = [
            (small[0].scales_R, held.gate_up.scales_R), (small[1].scales_R, held.down.scales_R)
        ]  # fmt: skip
    results: list[tuple[Product, Tiles, float]] = []
    for product in products:
        timed: list[tuple[Product, Tiles, float]] = []
        for cut in (tried or {}).get(product) or candidates(product, align):
            cut = replace(cut, depth=2 * cut.depth) if fp8 else cut

            def call(cut: Tiles = cut, product: Product = product) -> None:
                match product:
                    case "up":
                        over_rows(
                            product, wide, gate_up, plan, swiglu=True, scales=scales[0], cut=cut
                        )
                    case "down":
                        over_rows(product, narrow, down, plan, scales=scales[1], cut=cut)
                    case "d_inner":
                        over_rows(product, wide, down, plan, transposed=True, cut=cut)
                    case "d_rows":
                        over_rows(product, double, gate_up, plan, transposed=True, cut=cut)
                    case "d_down":
                        sum_rows(product, wide, narrow, plan, cut=cut)
                    case "d_gate_up":
                        sum_rows(product, double, wide, plan, cut=cut)

            try:
                call()
                ms = float(do_bench(call, warmup=30, rep=150, return_mode="median"))
            except (triton.CompilationError, triton.OutOfResources, RuntimeError) as error:
                print(f"{product} {cut}: refused, {str(error).splitlines()[0][:120]}", flush=True)
                continue
            each = 2 * (2 if product in ("up", "d_rows", "d_gate_up") else 1)
            flops = each * tokens * top_k * hidden * inner
            print(f"{product:10s} {ms:8.3f} ms {flops / ms / 1e9:6.0f} TFLOP/s {cut}", flush=True)
            timed.append((product, cut, ms))
        results += sorted(timed, key=lambda entry: entry[2])
    return results
