"""The tables of the page on ``swe-repo``, from the recipes and what was measured of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from m2gym.report.stats import estimate
from m2gym.tasksets.quality import funnel
from m2gym.tasksets.quality.grader import Verified, digest_of
from m2gym.tasksets.quality.verified import read_state
from m2gym.tasksets.swe_repo.recipe import Recipe, green_tests
from m2gym.tasksets.swe_repo.shipped import recipes
from m2gym.tasksets.swe_repo.tried import DATA, read_funnel

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
    state = {
        name: row
        for name, row in read_state(DATA).items()
        if (r := shipped.get(name)) and row.recipe == digest_of(r, green_tests(r.green))
    }
    return {
        "set": _set(shipped.values()),
        "packages": _packages(shipped.values()),
        "operators": _operators(shipped.values()),
        "funnel": _funnel(shipped.values()),
        "reasons": _reasons(shipped.values()),
        "pairs": _pairs_tried(shipped.values()),
        "steps": _steps(shipped.values()),
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


def _funnel(shipped: Iterable[Recipe]) -> str:
    rows: list[Sequence[object]] = []
    told = read_funnel(DATA)
    for name, account in funnel.releases(shipped).items():
        row = told.get(name, {})
        if "rejected" in row:
            why = " ".join(row["rejected"].split())[:160].replace("|", "/")
            rows.append((name, "", "", 0, 0, "", why))
            continue
        spent = sum(r["seconds"] for key, r in told.items() if key.partition(" ")[0] == name)
        seconds = f"{spent:.0f}" if row else ""
        counts = (account.tried, account.shipped, seconds, funnel.to_text(account))
        rows.append((name, row.get("tests", ""), row.get("flaky", ""), *counts))
    head = ("release", "tests", "flaky", "tried", "shipped", "s", "dropped")
    return _table(head, rows)


def _reasons(shipped: Iterable[Recipe]) -> str:
    whole = funnel.total(funnel.releases(shipped).values())
    rows = [("**tried**", whole.tried), *whole.dropped.items(), ("**shipped**", whole.shipped)]
    return _table(("candidates", "number"), [*rows, ("not accounted for", whole.missing)])


def _pairs_tried(shipped: Iterable[Recipe]) -> str:
    found = funnel.pairs(shipped)
    accounts = [account for account in found.values() if isinstance(account, funnel.Account)]
    refused = Counter(kind for kind in found.values() if isinstance(kind, str))
    whole = funnel.total(accounts)
    used = sum(account.shipped > 0 for account in accounts)
    rows: list[tuple[str, int]] = [("**pairs**", len(found)), *refused.most_common()]
    rows += [("no part is shipped", len(accounts) - used), ("**pairs with shipped tasks**", used)]
    rows += [("**parts tried**", whole.tried), *whole.dropped.items()]
    rows += [("**tasks shipped**", whole.shipped), ("parts not accounted for", whole.missing)]
    return _table(("", "number"), rows)


def _steps(shipped: Iterable[Recipe]) -> str:
    rows: list[Sequence[object]] = []
    for (package, old, new), account in funnel.pairs(shipped).items():
        if isinstance(account, str):
            rows.append((package, f"{old} → {new}", 0, 0, account))
        else:
            counts = account.tried, account.shipped, funnel.to_text(account)
            rows.append((package, f"{old} → {new}", *counts))
    return _table(("package", "step", "parts", "shipped", "dropped"), rows)


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
    further = [v for v in state.values() if v.further]
    tried, slipped = sum(len(v.further) for v in further), sum(len(v.slipped) for v in further)
    wrong = Counter(len(v.wrong) for v in state.values())
    good = Counter(len(v.good) for v in state.values())
    rows = [
        ("tasks shipped", len(shipped)),
        ("verified as they are shipped", len(state)),
        ("fit", fit),
        ("wrong patches of a task, the first", _spread(wrong)),
        ("good patches of a task", _spread(good)),
        ("tasks tried with further wrong patches", len(further)),
        ("of these patches, judged wrongly", f"{slipped} of {tried}"),
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
        parts.append(f"the fault is in no function: {count[None]}")  # type: ignore[index]
    return ", ".join(parts)
