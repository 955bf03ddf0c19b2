"""Tables for people: at a terminal (rich) and in a notebook (HTML)."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

from rich import box
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
    """One row a run, with the share that was not graded said out loud, and pass@k below."""
    below = escape("\n".join(notes(summaries))) or None
    table = Table(title=title, title_justify="left", caption=below, caption_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fmt: skip
    for header in HEADERS:
        if header == "agent":
            table.add_column(header, overflow="fold", min_width=10)
        elif header == "not graded":
            table.add_column(header, overflow="fold", min_width=6)
        else:
            table.add_column(header, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(*map(escape, row(summary)))
    return table


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader must know to believe the numbers; pass@k and pass^k with their intervals."""
    found = []
    for summary in summaries:
        if summary.passes:
            named = f"{row(summary)[0]}: " if len(summaries) > 1 else ""
            found.append(
                named
                + ", ".join(
                    f"{name} {one.mean:.3f} {interval_text(one.interval)}"
                    for name, one in summary.passes.items()
                )
            )
    masked = sum(summary.masked for summary in summaries)
    if masked:
        found.append(
            f"{masked} episode(s) could not be graded and are in no score; "
            "--resume tries them again"
        )
    return found


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
    below = " · ".join(filter(None, [*notes(summaries), footer]))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" + (
        f"<p>{html.escape(below)}</p>" if below else ""
    )
