"""A training run at a terminal: the last step's numbers, their course, and what is odd."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]

SHOWN = (
    ("reward", "reward"),
    ("held-out reward", "held_out"),
    ("accuracy", "accuracy"),
    ("valid calls", "valid_calls"),
    ("finish rate", "finish_rate"),
    ("nll0", "nll0"),
    ("length", "length"),
    ("entropy", "entropy"),
    ("KL to reference", "kl_reference"),
    ("KL to sampler", "kl_old"),
    ("clipped", "clipped_high"),
    ("staleness", "lag_max"),
    ("merge ratio", "merge"),
    ("tokens/s", "tokens_per_second"),
)
PHASES = ("generate", "engine", "gradients", "optimiser", "probe", "evaluate", "other")
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Steps whose course is shown."""
KEPT = 6
"""Anomalies shown, the newest last."""


def spark(values: Sequence[float]) -> str:
    """Numbers as small bars.

    >>> spark([0, 1, 2])
    '▁▅█'
    """
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[round((v - low) / span * (len(BARS) - 1))] for v in values)


class TrainView:
    """Shows rows as they come; ``with`` it, `add` each.

    Args:
        steps: of the whole run.
        console: where to; the error stream when left out.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.steps, self.rows = steps, list[Row]()
        self.begun = time.monotonic()
        self.spinner = Spinner("dots")
        self.live = Live(
            get_renderable=self.picture,
            console=console or Console(stderr=True),
            refresh_per_second=2,
        )

    def __enter__(self) -> TrainView:
        self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.__exit__(*error)

    def add(self, row: Row) -> None:
        """A step is done."""
        self.rows.append(row)
        self.live.refresh()

    def picture(self) -> RenderableType:
        """What is shown now."""
        if not self.rows:
            self.spinner.update(text=Text(" first step: generating"))
            return self.spinner
        last = self.rows[-1]
        table = Table(box=None, pad_edge=False, title_justify="left", title=self._title(last))
        for name in ("", "now", "course"):
            table.add_column(name, justify="right" if name == "now" else "left")
        for name, key in SHOWN:
            course = [r[key] for r in self.rows if isinstance(r.get(key), int | float)][-WIDTH:]
            if course:
                table.add_row(name, f"{course[-1]:.4g}", spark(course))
        spent = {p: last.get(f"seconds_{p}", 0.0) for p in PHASES}
        phases = " · ".join(f"{p} {s:.1f}" for p, s in spent.items())
        odd = [(r["step"], told) for r in self.rows for told in r["anomalies"]][-KEPT:]
        said = [Text.from_markup(f"[red]{n}: {escape(told)}[/red]") for n, told in odd]
        self.spinner.update(text=Text(f" {time.monotonic() - self.begun:.0f} s"))
        return Group(table, Text(f"seconds: {phases}"), *said, self.spinner)

    def _title(self, last: Row) -> str:
        stage = f", stage {last['stage']}" if "stage" in last else ""
        return f"step {last['step']} of {self.steps}{stage}"
