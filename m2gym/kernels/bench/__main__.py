"""``python -m m2gym.kernels.bench [--only PART ...] [--out FILE] [--tune]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import m2gym.kernels.bench as bench
from m2gym.kernels.bench.measure import M2
from m2gym.kernels.tune import tune
from m2gym.kernels.tuning import Product


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m m2gym.kernels.bench", description=bench.__doc__
    )
    parser.add_argument("--only", nargs="+", choices=list(bench.PARTS), help="parts to run")
    parser.add_argument("--out", type=Path, help="write the rows here as JSON")
    parser.add_argument("--tune", action="store_true", help="time tile shapes instead")
    parser.add_argument("--tokens", type=int, default=16384, help="with --tune: tokens of the load")
    parser.add_argument("--fp8", action="store_true", help="with --tune: the 8-bit products")
    chosen = parser.parse_args(arguments)
    try:
        bench.need_gpu()
    except RuntimeError as error:
        parser.exit(1, f"{error}\n")
    if chosen.tune:
        forward: list[Product] = ["up", "down"]
        backward: list[Product] = ["d_inner", "d_rows", "d_down", "d_gate_up"]
        tune(chosen.tokens, *M2, forward if chosen.fp8 else forward + backward, fp8=chosen.fp8)
        return 0
    rows = bench.run(chosen.only)
    if chosen.out:
        chosen.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
