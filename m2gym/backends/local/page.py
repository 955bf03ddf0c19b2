"""A finished run as one HTML page: settings, curves, what was odd, and what the model wrote.

Everything that a model, an environment or a configuration wrote is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from m2gym.backends.local.plots import TIMES, plot_run, share_outside, times
from m2gym.backends.train_config import TrainConfig
from m2gym.forge.records import PoolTrajectory

Row = dict[str, Any]

SAMPLES = 3
"""Groups shown of the first and of the last ones; the project's choice."""

SHOWN = (
    "stage", "reward", "accuracy", "calls", "valid_calls", "finish_rate", "nll0", "length",
    "entropy", "kl_reference", "clipped_high", "lag_max", "merge", "grad_norm",
    "engine_difference_max", "masked_episodes", "tokens_per_second",
)  # fmt: skip

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: .2rem .5rem }
td { text-align: right } pre { white-space: pre-wrap; background: #f5f5f5; padding: .6rem }
.said { background: #e8f4e8 } img { max-width: 100% } .bad { color: #a00 }
"""


def write_page(
    config: TrainConfig,
    rows: Sequence[Row],
    episodes: Sequence[PoolTrajectory],
    decode: Callable[[Sequence[int]], str],
    out: Path,
) -> Path:
    """Write ``OUT/report.png`` and ``OUT/report.html``; the page's path."""
    plot_run(rows, out / "report.png", config.env.id)
    picture = base64.b64encode((out / "report.png").read_bytes()).decode()
    parts = [
        f"<h1>{_text(out.name)}</h1>",
        f"<p>{_text(config.model)} in {_text(config.env.id)} by {_text(config.agent.id)}, "
        f"{len(rows)} updates, {sum(r['seconds'] for r in rows):.0f} s</p>",
        f'<img alt="curves" src="data:image/png;base64,{picture}">',
        "<h2>Stages</h2>",
        _table(("stage", "updates", *BY_STAGE), _stages(rows)),
        "<h2>Time</h2>",
        _times(rows),
        "<h2>Anomalies</h2>",
        _anomalies(rows),
        "<h2>Updates</h2>",
        _table(("step", *SHOWN), [[row["step"], *(row.get(n) for n in SHOWN)] for row in rows]),
        "<h2>What it wrote</h2>",
        *_samples(episodes, decode),
        "<h2>Settings</h2>",
        f"<pre>{_text(config.text())}</pre>",
    ]
    path = out / "report.html"
    head = f'<!doctype html><meta charset="utf-8"><title>{_text(out.name)}</title>'
    path.write_text(f"{head}<style>{STYLE}</style>\n" + "\n".join(parts), "utf-8")
    return path


BY_STAGE = ("reward", "accuracy", "calls", "valid_calls", "finish_rate", "nll0", "length")


def _stages(rows: Sequence[Row]) -> list[list[Any]]:
    found = []
    for stage in sorted({row.get("stage", 1) for row in rows}):
        of = [row for row in rows if row.get("stage", 1) == stage]
        found.append([stage, len(of), *(_mean(of, name) for name in BY_STAGE)])
    return found


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return sum(values) / len(values) if values else None


def _times(rows: Sequence[Row]) -> str:
    spent = [times(row) for row in rows]
    total = sum(sum(t.values()) for t in spent) or 1.0
    shares = [f"{100 * sum(t[name] for t in spent) / total:.1f} %" for name in TIMES]
    return _table(TIMES, [shares]) + (
        f"<p>{100 * share_outside(rows):.1f} % outside generation, environment, forward and "
        "backward (evaluations not counted)</p>"
    )


def _anomalies(rows: Sequence[Row]) -> str:
    found = [(row["step"], told) for row in rows for told in row.get("anomalies", ())]
    if not found:
        return "<p>none</p>"
    return "<ul>" + "".join(f'<li class="bad">{n}: {_text(t)}</li>' for n, t in found) + "</ul>"


def _samples(
    episodes: Sequence[PoolTrajectory], decode: Callable[[Sequence[int]], str]
) -> Iterator[str]:
    groups: dict[str, list[PoolTrajectory]] = {}
    for episode in episodes:
        groups.setdefault(str(episode.group), []).append(episode)
    names = list(groups)
    for title, chosen in (("At first", names[:SAMPLES]), ("At last", names[-SAMPLES:])):
        yield f"<h3>{title}</h3>"
        for name in chosen:
            known = [e for e in groups[name] if e.reward is not None and e.completions]
            for episode in sorted(known, key=lambda e: e.reward or 0.0)[:: max(1, len(known) - 1)]:
                yield _episode(episode, decode)


def _episode(episode: PoolTrajectory, decode: Callable[[Sequence[int]], str]) -> str:
    parts = []
    seen: list[int] = []
    for c in episode.completions:
        prompt = c.prompt_ids.tolist()
        new = prompt[len(seen) :] if prompt[: len(seen)] == seen else prompt
        answer = c.response_ids.tolist()
        parts.append(f"<pre>{_text(decode(new))}</pre>")
        parts.append(f'<pre class="said">{_text(decode(answer))}</pre>')
        seen = prompt + answer
    title = f"{_text(episode.task)}: reward {episode.reward:.3g}"
    return f"<details><summary>{title}</summary>{''.join(parts)}</details>"


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return _text(f"{value:.4g}" if isinstance(value, float) else str(value))


def _text(value: str) -> str:
    return html.escape(value)
