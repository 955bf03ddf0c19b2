"""``python -m m2gym.forge.bench [build tree recorded window pool parquet] [--json]``.

``--plot FILE``: instead, the picture of throughput against shift.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from m2gym.forge.bench import BENCHES, run
from m2gym.forge.bench.window import plot_window


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[[], *BENCHES], default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="only draw throughput against shift here")
    arguments = parser.parse_args()
    if arguments.plot:
        plot_window(arguments.plot)
        return
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
