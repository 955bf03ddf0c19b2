"""The kernels whose tiles go by card are compiled here for cards that are not here.

Triton needs no GPU to compile for one, so this says what the interpreter cannot: that a card's
compiler takes the kernels, and that what they ask for in shared memory is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# Compute capability, bytes of shared memory a program may have, the name of such a card.
CARDS = {
    80: (166_912, "NVIDIA A100-SXM4-80GB"),
    89: (101_376, "NVIDIA L40S"),
    90: (232_448, "NVIDIA H200"),
    100: (232_448, "NVIDIA B200"),
    120: (101_376, "NVIDIA GeForce RTX 5090"),
}


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", CARDS)
def test_compiles_for(capability: int, tmp_path: Path) -> None:
    """In a process of its own: here triton was imported as an interpreter."""
    own = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_compiles", str(capability)],
        env=own | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    asked = [int(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(asked) == 6 * 3 + 1 + 4
    assert 0 < max(asked) <= CARDS[capability][0]


def _asks(kernel: Any, capability: int, warps: int, stages: int, types: str, **fixed: Any) -> int:
    """Bytes of shared memory of a kernel whose arguments have these types, in order."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    given = iter(types.split(";"))
    signature = {n: "constexpr" if n in fixed else next(given) for n in kernel.arg_names}
    built: Any = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=fixed),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    return int(built.metadata.shared)


def _tile(rows: int, cols: int, kind: str = "bf16") -> str:
    return f"tensordesc<{kind}[{rows}, {cols}]>"


def main(capability: int) -> None:
    """Print a line a kernel: its name, tile and bytes of shared memory."""
    import torch

    from m2gym.kernels import grouped, logits, tree_backward, tree_kernel, tuning

    shared, name = CARDS[capability]
    torch.cuda.get_device_name = lambda device=None: name
    told: Any = SimpleNamespace(shared_memory_per_block_optin=shared)
    torch.cuda.get_device_properties = lambda device=None: told
    warnings.simplefilter("ignore")
    device, dtype = torch.device("cuda"), torch.bfloat16
    products: tuple[tuning.Product, ...] = ("up", "down", "d_inner", "d_rows")
    sums: tuple[tuning.Product, ...] = ("d_down", "d_gate_up")

    for align in (16, 64, 128):
        for product in (*products, *sums):
            cut = tuning.tiles(product, align, 3072, 3072, dtype, device)
            fixed: dict[str, Any] = {
                "BM": cut.rows, "BN": cut.cols, "BK": cut.depth, "GROUP": cut.group,
                "PROGRAMS": 128, "SPECIALIZE": cut.specialize, "PRECISION": "tf32",
            }  # fmt: skip
            out = _tile(cut.rows, cut.cols)
            if product in sums:
                a, b = _tile(cut.depth, cut.rows), _tile(cut.depth, cut.cols)
                asked = _asks(
                    grouped._sum_rows_kernel, capability, cut.warps, cut.stages,
                    f"{a};{b};{out};*i32;*i32;i32;i32;i32;i32", **fixed,
                )  # fmt: skip
            else:
                turned = product in ("d_inner", "d_rows")
                a = _tile(cut.rows, cut.depth)
                b = _tile(cut.depth, cut.cols) if turned else _tile(cut.cols, cut.depth)
                asked = _asks(
                    grouped._over_rows_kernel, capability, cut.warps, cut.stages,
                    f"{a};{b};{out};{out};*i32;*i32;*i32;*i32;i32;i32;i32", GLU=product == "up",
                    KEEP=product == "up", SCALED=False, KN=turned, SWAP=cut.swap, **fixed,
                )  # fmt: skip
            print(product, cut, asked)

    cut = tuning.logits_tiles(dtype, device)
    kept = _tile(cut.rows, cut.cols, "fp16")
    print("logits", cut, _asks(
        logits._product_kernel, capability, cut.warps, cut.stages,
        f"{_tile(cut.rows, cut.depth)};{_tile(cut.cols, cut.depth)};{kept};*i64;*fp32;*fp32;i32;"
        "i32;i32;fp32", BM=cut.rows, BN=cut.cols, BK=cut.depth, KEEP=True, PROGRAMS=128,
        SPECIALIZE=cut.specialize, PRECISION="tf32",
    ))  # fmt: skip

    tiles = tree_kernel.shapes(device)
    sizes = {"N": 48, "M": 8, "D": 128, "PRECISION": "tf32"}
    s = tiles.forward
    long, short = f"{_tile(s.keys, 128)};" * 2, f"{_tile(s.short, 128)};" * 2
    print("tree", s, _asks(
        tree_kernel._forward_kernel, capability, s.warps, s.stages,
        f"*bf16;{long}{short}*bf16;*fp32;*i32;*i32;*i32;i32;fp32",
        PACK=tree_kernel.pack(s.rows, 6), BM=s.rows, BN=s.keys, BS=s.short, PRIOR=True, **sizes,
    ))  # fmt: skip
    s = tiles.d_query
    print("tree d_query", s, _asks(
        tree_backward._d_query_kernel, capability, s.warps, s.stages,
        f"*bf16;{f'{_tile(s.keys, 128)};' * 2}*bf16;*bf16;*fp32;*fp32;*bf16;*i32;*i32;*i32;i32;"
        "fp32;fp32",
        PACK=tree_kernel.pack(s.rows, 6), BM=s.rows, BN=s.keys, PRIOR=True, **sizes,
    ))  # fmt: skip
    s = tiles.d_key
    queries, keys = _tile(s.rows, 128), _tile(s.keys, 128)
    print("tree d_key", s, _asks(
        tree_backward._d_key_kernel, capability, s.warps, s.stages,
        f"{queries};{keys};{keys};{queries};*fp32;*fp32;*bf16;*bf16;{_tile(s.rows, s.keys)};*fp32;"
        "*i32;*i32;i32;i32;fp32;fp32;i32",
        HEADS=1, BM=s.rows, BN=s.keys, KEEP=True, PRIOR=False, **sizes,
    ))  # fmt: skip
    p = tiles.product
    print("tree product", p, _asks(
        tree_backward._product_kernel, capability, p.warps, p.stages,
        f"{_tile(p.rows, s.keys)};{keys};*bf16;*i32;*i32;*i32;*i32;i32;fp32;i32",
        HEADS=1, BM=p.rows, BN=s.keys, **sizes,
    ))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]))
