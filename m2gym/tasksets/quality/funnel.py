"""The funnel of ``swe-repo``: of what was tried, what is shipped and why the rest is not.

Every number is computed from the data beside the recipes: ``funnel.json`` (a release's places),
``pairs.json`` (parts of a step between two releases), ``dropped.json`` (what a verification took
out) and the recipes themselves. An `Account` adds up when nothing is ``missing``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from m2gym.tasksets.swe_repo.recipe import Recipe
from m2gym.tasksets.swe_repo.tried import DATA, of_step, read_funnel, read_rows
from m2gym.tasksets.swe_repo.tried import dropped as read_dropped

BY_HAND = "one by one"
"""Where a recipe of an injected bug has a file of its own, it was chosen by hand; nothing else was
tried then."""


@dataclass(frozen=True)
class Account:
    """What was tried, how much of it is shipped, and reason → number for the rest."""

    tried: int
    shipped: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """What was tried and is neither shipped nor dropped for a named reason."""
        return self.tried - self.shipped - sum(self.dropped.values())


def total(accounts: Iterable[Account]) -> Account:
    """All of them as one."""
    listed = list(accounts)
    why: Counter[str] = Counter()
    for account in listed:
        why.update(account.dropped)
    return Account(
        sum(account.tried for account in listed),
        sum(account.shipped for account in listed),
        dict(why.most_common()),
    )


def releases(recipes: Iterable[Recipe], folder: Path = DATA) -> dict[str, Account]:
    """Release → the account of its candidates for injected bugs, in all searches of it.

    A release of which nothing could be tried has an account of zeros (``funnel.json`` says why).
    """
    shipped, alone = Counter[str](), Counter[str]()
    own = {path.stem for path in (folder / "tasks").glob("*.json")}
    for recipe in recipes:
        if recipe.fixed is None:
            name = f"{recipe.package}-{recipe.source.version}"
            (alone if recipe.id in own else shipped)[name] += 1
    later: dict[str, Counter[str]] = {}
    for task, (kind, reason) in read_dropped(folder).items():
        if kind == "injected-bug":
            later.setdefault(task.rpartition("-")[0], Counter())[f"when verified: {reason}"] += 1
    tried, why = Counter[str](), dict[str, Counter[str]]()
    for key, row in read_funnel(folder).items():
        name = key.partition(" ")[0]
        tried[name] += row["tried"]
        why.setdefault(name, Counter()).update(row.get("dropped", {}))
    found = {}
    for name in sorted({*tried, *shipped, *later}):
        reasons = why.get(name, Counter()) + later.get(name, Counter())
        found[name] = Account(tried[name], shipped[name], dict(reasons.most_common()))
    if alone:
        found[BY_HAND] = Account(alone.total(), alone.total())
    return found


def pairs(
    recipes: Iterable[Recipe], folder: Path = DATA
) -> dict[tuple[str, str, str], Account | str]:
    """Package, old and new → the account of the step's parts, or why it has none."""
    shipped = Counter(
        (recipe.package, recipe.source.version, recipe.fixed.version)
        for recipe in recipes
        if recipe.fixed is not None
    )
    later = {
        t: reason for t, (kind, reason) in read_dropped(folder).items() if kind != "injected-bug"
    }
    rows = {(row["package"], row["old"], row["new"]): row for row in read_rows(folder)}
    found: dict[tuple[str, str, str], Account | str] = {}
    for key in sorted({*rows, *shipped}):
        row = rows.get(key, {"parts": 0})
        if "kind" in row:
            found[key] = row["kind"]
            continue
        out = {
            task: f"when verified: {why}"
            for task, why in later.items()
            if of_step(task, key[0], key[2])
        }
        why = Counter(map(cause, {**row.get("dropped", {}), **out}.values()))
        found[key] = Account(row["parts"], shipped[key], dict(why.most_common()))
    return found


def cause(reason: str) -> str:
    """A reason without the names and numbers of one case.

    >>> cause("without a change 3 of its tests are not seen to fail")
    'without a change some of its tests are not seen to fail'
    >>> cause("the reference change is judged [0.0]")
    'the reference change is not judged 1'
    """
    plain = re.sub(r"is judged \[.*?\]", "is not judged 1", reason)
    plain = re.sub(r"\b\d+ of its tests\b", "some of its tests", plain)
    plain = re.sub(r"\b\d+ tests belong together", "its tests belong together", plain)
    plain = re.sub(r"^(it cannot be judged): .*", r"\1", plain)
    return plain.strip().replace("|", "/")[:100]


def to_text(account: Account) -> str:
    """The reasons, each with its number."""
    return ", ".join(f"{number} × {reason}" for reason, number in account.dropped.items())


__all__ = ["BY_HAND", "Account", "cause", "pairs", "releases", "to_text", "total"]
