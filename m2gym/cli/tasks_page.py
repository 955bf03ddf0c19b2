"""The tables of the page on ``swe-repo``, from the recipes and what was measured of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from m2gym.report.stats import estimate
from m2gym.tasksets.produce import DATA
from m2gym.tasksets.quality import Verified
from m2gym.tasksets.recipe import Recipe
from m2gym.tasksets.swe_repo import recipes
from m2gym.tasksets.verified import read_state
from m2gym.tasksets.verify_tasks import dropped, read_funnel

_MARK = "<!-- {name} -->"


def set_tables(text: str) -> str:
    """``text`` with each table between ``<!-- name -->`` and ``<!-- /name -->`` written anew."""
    for name, rows in tables().items():
        begin, end = _MARK.format(name=name), _MARK.format(name=f"/{name}")
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        written = f"{begin}\n{rows}\n{end}".replace("\\", r"\\")
        text = pattern.sub(written, text)
    return text


def tables() -> dict[str, str]:
    """Name → Markdown."""
    shipped = recipes()
    state = {name: v for name, v in read_state(DATA).items() if name in shipped}
    return {
        "set": _set(shipped.values()),
        "packages": _packages(shipped.values()),
        "operators": _operators(shipped.values()),
        "funnel": _funnel(),
        "reasons": _reasons(),
        "pairs": _pairs_tried(),
        "quality": _quality(shipped.values(), state),
        "verified": _verified(shipped, state),
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def _set(shipped: Iterable[Recipe]) -> str:
    listed = list(shipped)
    rows = []
    for kind in ("version-diff", "injected-bug"):
        for split in ("train", "test"):
            these = [r for r in listed if r.kind == kind and r.split == split]
            rows.append((kind, split, len(these), len({r.package for r in these})))
    rows.append(("all", "", len(listed), len({r.package for r in listed})))
    return _table(("kind", "split", "tasks", "packages"), rows)


def _packages(shipped: Iterable[Recipe]) -> str:
    counts: dict[str, Counter[str]] = {}
    splits = {}
    for recipe in shipped:
        counts.setdefault(recipe.package, Counter())[recipe.kind] += 1
        splits[recipe.package] = recipe.split
    total = sum(sum(c.values()) for c in counts.values())
    rows = [
        (
            package,
            splits[package],
            count["version-diff"],
            count["injected-bug"],
            f"{100 * sum(count.values()) / total:.1f} %",
        )
        for package, count in sorted(counts.items())
    ]
    return _table(("package", "split", "version-diff", "injected-bug", "share"), rows)


def _operators(shipped: Iterable[Recipe]) -> str:
    count = Counter(m.operator for recipe in shipped for m in recipe.mutations)
    return _table(("operator", "mistakes"), count.most_common())


def _funnel() -> str:
    rows = []
    for name, row in sorted(read_funnel(DATA).items()):
        if "rejected" in row:
            why = " ".join(row["rejected"].split())[:160].replace("|", "/")
            rows.append((name, "", "", 0, 0, "", why))
        else:
            why = ", ".join(f"{n} × {reason}" for reason, n in list(row["dropped"].items())[:3])
            rows.append(
                (
                    name,
                    row["tests"],
                    row["flaky"],
                    row["tried"],
                    row["kept"],
                    f"{row['seconds']:.0f}",
                    why,
                )
            )
    head = ("release", "tests", "flaky", "tried", "kept", "s", "dropped most often")
    return _table(head, rows)


def _reasons() -> str:
    tried = kept = 0
    reasons: Counter[str] = Counter()
    for row in read_funnel(DATA).values():
        tried += row["tried"]
        kept += row["kept"]
        reasons.update(row.get("dropped", {}))
    rows: list[tuple[str, int]] = [("**tried**", tried), *reasons.most_common()]
    rows.append(("**kept when made**", kept))
    later = Counter(f"{kind}: {reason}" for kind, reason in dropped().values())
    rows += [(f"dropped by verification, {reason}", n) for reason, n in later.most_common()]
    return _table(("candidates", "number"), rows)


def _pairs_tried() -> str:
    path = DATA / "pairs.json"
    listed = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    parts = sum(row.get("parts", 0) for row in listed)
    why = Counter(_cause(reason) for row in listed for reason in _reasons_of(row))
    rows: list[tuple[str, object]] = [
        ("pairs tried", len(listed)),
        ("pairs of which a task came", sum(bool(row.get("shipped")) for row in listed)),
        ("tasks made", parts),
        ("**tasks shipped when made**", sum(row.get("shipped", 0) for row in listed)),
    ]
    rows += [(f"not shipped: {reason}", count) for reason, count in why.most_common(12)]
    return _table(("", "number"), rows)


def _reasons_of(row: dict[str, Any]) -> list[str]:
    found = list(row.get("dropped", {}).values())
    return [*found, row["rejected"]] if "rejected" in row else found


def _cause(reason: str) -> str:
    """A reason without the names and numbers of one case."""
    text = reason.rpartition(": ")[2] if ": " in reason else reason
    text = re.sub(r"[\w.-]*\d[\w.-]*|\[.*?\]", "…", text)
    return text.strip().replace("|", "/")[:100]


def _quality(shipped: Iterable[Recipe], state: dict[str, Verified]) -> str:
    kinds = {recipe.id: recipe.kind for recipe in shipped}
    rows = []
    for kind in ("version-diff", "injected-bug", "all"):
        these = [v for n, v in state.items() if kind in (kinds[n], "all")]
        for must, tried, wrong in (("0", "wrong", "passed"), ("1", "good", "failed")):
            pairs = [(getattr(v, tried), getattr(v, wrong)) for v in these]
            for label in (*sorted({x for every, _ in pairs for x in every}), None):
                rows.append((kind, label or "**all**", f"must score {must}", *_rate(pairs, label)))
    head = ("tasks", "patches", "", "tried", "judged wrongly", "rate", "95 % interval")
    return _table(head, rows)


def _rate(
    pairs: Iterable[tuple[Sequence[str], Sequence[str]]], label: str | None
) -> tuple[int, int, str, str]:
    """Patches tried, of these judged wrongly, the mean of the tasks' rates and its interval."""
    rewards: dict[str, list[float]] = {}
    for number, (every, missed) in enumerate(pairs):
        tried = sum(label in (None, x) for x in every)
        wrong = sum(label in (None, x) for x in missed)
        if tried:
            rewards[str(number)] = [1.0] * wrong + [0.0] * (tried - wrong)
    found = estimate(rewards)
    if found is None or found.interval is None:
        return 0, 0, "–", "–"
    count, wrong = found.episodes, int(sum(map(sum, rewards.values())))
    low, high = found.interval
    return count, wrong, f"{100 * found.mean:.1f} %", f"{100 * low:.1f} – {100 * high:.1f} %"


def _verified(shipped: dict[str, Recipe], state: dict[str, Verified]) -> str:
    seconds = sorted(v.seconds for v in state.values())
    spent = sum(v.spent for v in state.values())
    distances = Counter(v.distance for v in state.values())
    shown = Counter(min(len(r.fail_to_pass), 6) for r in shipped.values())
    files = Counter(min(r.changed, 4) for r in shipped.values())
    fit = sum(v.problem is None for v in state.values())
    middle = seconds[len(seconds) // 2] if seconds else 0
    rows = [
        ("tasks shipped", len(shipped)),
        ("verified as they are shipped", len(state)),
        ("fit", fit),
        ("seconds to grade the reference change, median", f"{middle:.2f}"),
        ("the same, slowest", f"{max(seconds, default=0):.1f}"),
        ("seconds of all verifications, one after the other", f"{spent:.0f}"),
        ("calls between a failing test and the fault", _spread(distances)),
        ("failing tests (6: six or more)", _spread(shown)),
        ("files touched (4: four or more)", _spread(files)),
    ]
    return _table(("", ""), rows)


def _spread(count: Counter[int | None] | Counter[int]) -> str:
    keys = sorted(k for k in count if k is not None)
    parts = [f"{key}: {count[key]}" for key in keys]
    if count.get(None):  # type: ignore[call-overload]
        parts.append(f"unknown: {count[None]}")  # type: ignore[index]
    return ", ".join(parts)
