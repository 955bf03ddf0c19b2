"""Tables for people: at a terminal (rich) and in a notebook (HTML)."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from m2gym.report.stats import Comparison
from m2gym.report.summary import Summary

HEADERS = (
    "agent",
    "tasks",
    "episodes",
    "score",
    "95 % interval",
    "not graded",
    "s/episode",
    "USD",
)


def interval_text(interval: tuple[float, float] | None) -> str:
    """``[0.30, 0.95]``, or a dash."""
    return f"[{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "–"


def row(summary: Summary) -> list[str]:
    """The cells of one run, in the order of `HEADERS`."""
    found = summary.estimate
    reasons = ", ".join(
        f"{count} {status}"
        for status, count in sorted(summary.statuses.items())
        if status in ("infra_error", "verifier_error", "cancelled")
    )
    return [
        summary.agent + (f" · {summary.model}" if summary.model else ""),
        str(found.tasks if found else 0),
        str(summary.episodes),
        f"{found.mean:.3f}" if found else "–",
        interval_text(found.interval if found else None),
        reasons or "0",
        f"{summary.seconds:.1f}" if summary.seconds is not None else "–",
        f"{summary.cost_usd:.2f}" if summary.cost_usd else "–",
    ]


def summary_table(summaries: Sequence[Summary], title: str | None = None) -> Table:
    """One row a run, with the share that was not graded said out loud."""
    best = list(dict.fromkeys(name for summary in summaries for name in summary.passes))
    table = Table(title=title, title_justify="left", caption=caption(summaries))
    table.caption_justify = "left"
    for header in [*HEADERS, *best]:
        left = header in ("agent", "not graded")
        table.add_column(header, justify="left" if left else "right", overflow="fold")
    for summary in summaries:
        more = [
            f"{summary.passes[name].mean:.3f} {interval_text(summary.passes[name].interval)}"
            if name in summary.passes
            else "–"
            for name in best
        ]
        table.add_row(*map(escape, row(summary)), *more)
    return table


def caption(summaries: Sequence[Summary]) -> str | None:
    """What a reader must know to believe the numbers."""
    masked = sum(summary.masked for summary in summaries)
    if not masked:
        return None
    return f"{masked} episode(s) could not be graded and are in no score; --resume tries them again"


def comparison_table(a: str, b: str, comparison: Comparison) -> Table:
    """``b`` against ``a``."""
    table = Table(title=escape(f"B = {b}\nA = {a}"), title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    difference = f"{comparison.difference:+.3f}"
    table.add_row("B − A, mean over tasks", difference)
    table.add_row("95 % interval", interval_text(comparison.interval))
    table.add_row("permutation test, p", f"{comparison.p_value:.4f}")
    table.add_row("sign test, p", f"{comparison.sign_p_value:.4f}")
    if comparison.detectable is not None:
        table.add_row("smallest difference seen with 80 % power", f"{comparison.detectable:.3f}")
    tasks = f"{comparison.better} / {comparison.equal} / {comparison.worse}"
    table.add_row("tasks better / equal / worse", tasks)
    if comparison.only_a or comparison.only_b:
        table.add_row("tasks only in A / only in B", f"{comparison.only_a} / {comparison.only_b}")
    return table


def to_text(renderable: RenderableType, width: int = 100) -> str:
    """Plain text without colour codes."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip("\n")


def summary_html(summaries: Sequence[Summary], footer: str = "") -> str:
    """The same table for a notebook; every text is escaped."""
    head = "".join(f"<th>{html.escape(header)}</th>" for header in HEADERS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row(summary)) + "</tr>"
        for summary in summaries
    )
    notes = " · ".join(filter(None, [caption(summaries), footer]))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" + (
        f"<p>{html.escape(notes)}</p>" if notes else ""
    )
