"""``m2gym compare``: did the second run do better, and how sure is that?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json


def compare(
    a: Annotated[Path, typer.Argument(help="Run folder of the baseline.")],
    b: Annotated[Path, typer.Argument(help="Run folder compared with it.")],
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare two runs, paired by task: difference with interval, exact tests.

    Only tasks that both runs graded count. The smallest difference the comparison could have seen
    (with 80 % power) says whether "no difference" means anything.
    """
    from m2gym.report.caution import of_comparison
    from m2gym.report.table import comparison_table, summary_table
    from m2gym.rollout.run import load_run

    first, second = load_run(a), load_run(b)
    found = first.compare(second)
    if json:
        beside = {
            name: {"cost_usd": one.summary.cost_usd, "tokens": one.summary.tokens,
                   "seconds": one.summary.seconds}
            for name, one in (("of_a", first), ("of_b", second))
        }  # fmt: skip
        warnings = of_comparison(found)
        show_json({"a": str(a), "b": str(b), **asdict(found), **beside, "warnings": warnings})
        return
    show(summary_table([first.summary, second.summary]))
    show(comparison_table(str(a), str(b), found))
    for sentence in of_comparison(found):
        note(sentence)
    changed = [
        key
        for key in ("env", "model", "split", "attempts", "workspace", "seed")
        if getattr(first.config, key) != getattr(second.config, key)
    ]
    if changed:
        note(f"the runs also differ in: {', '.join(changed)}")
