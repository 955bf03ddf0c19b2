"""Check and time every kernel beside its peers on this GPU: ``python -m m2gym.kernels.bench``.

Times are medians over CUDA events after a warm-up. Useful TFLOP/s count the products a model
needs once (no recomputation); extra memory is the peak above the inputs, without gradients of
weights and inputs. Errors are relative in norm against float64.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence

import torch

from m2gym.kernels.bench.attention import bench_tree
from m2gym.kernels.bench.experts import bench_experts
from m2gym.kernels.bench.layer import bench_layer
from m2gym.kernels.bench.logprobs import bench_logprobs
from m2gym.kernels.bench.measure import Row, median_ms, row


def peaks() -> Iterator[Row]:
    """The two ceilings of this card: a large product and a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    yield row("peak", "8192³ bf16 product", median_ms(lambda: a @ b), 2 * 8192**3)
    x = torch.randn(2**30, device="cuda")
    y = torch.empty_like(x)
    ms = median_ms(lambda: y.copy_(x))
    yield row("peak", "copy of 4.3 GB", ms, tb_per_s=2 * x.numel() * 4 / ms / 1e9)


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "peaks": peaks,
    "experts": bench_experts,
    "logprobs": bench_logprobs,
    "tree": bench_tree,
    "layer": bench_layer,
}


def need_gpu() -> str:
    """The card's name.

    Raises:
        RuntimeError: torch sees no NVIDIA GPU; the message says what to do.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            "the kernels' benchmark needs an NVIDIA GPU and a torch built for CUDA; this torch "
            f"({torch.__version__}) sees none. Without one, TRITON_INTERPRET=1 with "
            "`pytest tests/kernels` checks that they are right, not how fast they are"
        )
    return torch.cuda.get_device_name()


def run(parts: Sequence[str] | None = None) -> list[Row]:
    """Check and time the named parts (all by default); a row a measurement, printed as it comes.

    Raises:
        RuntimeError: no NVIDIA GPU.
    """
    card = need_gpu()
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
