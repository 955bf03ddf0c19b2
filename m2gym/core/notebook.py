"""How records show themselves in a notebook: small tables, every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """An HTML table of text.

    >>> table([("<b>", 1)])
    '<table><tbody><tr><td>&lt;b&gt;</td><td>1</td></tr></tbody></table>'
    """
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f"<table>{thead}<tbody>{body}</tbody></table>"


def folded(title: str, text: str) -> str:
    """Text behind a title to click on."""
    shown = html.escape(text)
    return f"<details><summary>{html.escape(title)}</summary><pre>{shown}</pre></details>"
