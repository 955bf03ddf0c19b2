"""The page: one HTML file of our own style and script, and the data as text that is never code.

A content security policy names the script and the style by their hashes, so that nothing else runs
in the page whatever a trajectory holds; data lies in base64 and reaches the page as text nodes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from m2gym.report.viewer.data import ViewedRun, comparisons, detail, head, row

SCRIPTS = ("base.js", "charts.js", "overview.js", "episode.js", "compare.js", "main.js")


def packed(data: Any) -> str:
    """JSON, gzip and base64: letters that end no element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()


def static_page(runs: Sequence[ViewedRun], title: str = "") -> Iterator[str]:
    """Pieces of a page that holds everything; one trajectory is in memory at a time."""
    yield _head(title or ", ".join(run.name for run in runs), live=False)
    rows: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        for one in run.trajectories:
            body = packed(detail(run, one))
            yield f'<script type="application/octet-stream" id="d{len(rows)}">{body}</script>\n'
            rows.append(row(number, one))
    index = {
        "live": False,
        "runs": [head(run) for run in runs],
        "rows": rows,
        "comparisons": comparisons(rows, len(runs)),
    }
    yield f'<script type="application/octet-stream" id="index">{packed(index)}</script>\n'
    yield _foot()


def live_page(title: str) -> str:
    """A page that asks the server which gave it for everything."""
    index = {"live": True, "runs": [], "rows": []}
    body = f'<script type="application/octet-stream" id="index">{packed(index)}</script>\n'
    return _head(title, live=True) + body + _foot()


@lru_cache
def _parts() -> tuple[str, str]:
    folder = files("m2gym.report.viewer") / "assets"
    script = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    return (folder / "style.css").read_text("utf-8"), f'"use strict";\n{script}'


def policy(live: bool) -> str:
    """The content security policy."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in _parts()
    )
    parts = [
        "default-src 'none'",
        f"script-src 'sha256-{script}'",
        f"style-src 'sha256-{style}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join([*parts, "connect-src 'self'"] if live else parts)


def _head(title: str, *, live: bool) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(policy(live))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(title)} · m2gym</title>
<style>{_parts()[0]}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<header id="top"></header>
<main id="main" tabindex="-1"><p class="quiet">Reading the run …</p></main>
<div id="say" role="status" aria-live="polite"></div>
<noscript>This page needs JavaScript; all of it is in this file.</noscript>
"""


def _foot() -> str:
    return f"<script>{_parts()[1]}</script>\n</body>\n</html>\n"
