"""Ship what came of measured pairs: recipes, green lists, and a row a pair that says why not more.

A row of ``pairs.json`` holds either the kind of reason for which no task came of the pair, or into
how many parts its step was taken and why parts are not shipped (id → reason); what a verification
took out later is in ``dropped.json``. `m2gym.tasksets.quality.funnel` adds them up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError
from m2gym.tasksets.quality.verified import write
from m2gym.tasksets.registry.pinned import pinned
from m2gym.tasksets.swe_repo.recipe import Recipe, group_by_file, load
from m2gym.tasksets.swe_repo.tried import DROPPED, dropped, of_step, read_rows

UNTOLD = "no statement is written for it"


def ship(
    out: Path,
    statements: Mapping[str, str],
    folder: Path,
    *,
    every: bool = True,
    left: Mapping[str, str] | None = None,
) -> list[Recipe]:
    """Write the outcomes in ``out`` into the recipes of ``folder``; the tasks shipped of them.

    Only tasks with a statement are shipped; without ``every`` a statement may be left over.
    ``left`` says why others are not (id → reason). What is there of other pairs stays; so does a
    task that is there already with the same failing tests, and with it its verification.

    Raises:
        InputError: a statement belongs to no task, or two tasks have the same failing tests.
    """
    reasons = left or {}
    files = _recipes(folder)
    there = {recipe.id: recipe for recipes in files.values() for recipe in recipes}
    shown_by = {_shown(recipe): recipe for recipe in there.values()}
    rows = {_key(row): row for row in read_rows(folder)}
    found: list[Recipe] = []
    parts: dict[tuple[str, str, str], set[str]] = {}
    for path in sorted(out.glob("*.json")):
        outcome = json.loads(path.read_text(encoding="utf-8"))
        row = {name: outcome[name] for name in ("package", "old", "new")}
        if "kind" in outcome:
            rows[_key(row)] = {**row, "kind": outcome["kind"]}
            continue
        made = [Recipe.model_validate(recipe) for recipe in outcome["recipes"]]
        taken = []
        for recipe in made:
            before = shown_by.get(_shown(recipe))
            if before is not None:
                taken.append(before)
            elif recipe.id in there:
                raise InputError(f"{recipe.id} is there already, with other failing tests")
            elif recipe.id in statements:
                taken.append(_shipped(recipe, statements[recipe.id]))
        known = set(map(_shown, taken))
        why = {r.id: reasons.get(r.id, UNTOLD) for r in made if _shown(r) not in known}
        why = {**outcome["dropped"], **why}
        parts[_key(row)] = {*(recipe.id for recipe in made), *outcome["dropped"]}
        more = {"dropped": why} if why else {}
        rows[_key(row)] = {**row, "parts": len(parts[_key(row)]), **more}
        found += taken
        if fresh := [recipe for recipe in taken if recipe.id not in there]:
            text = json.dumps(group_by_file(tuple(outcome["green"])), indent=1, ensure_ascii=False)
            write(folder / "green" / f"{fresh[0].green}.json", text + "\n")
    lost = sorted(statements.keys() - {recipe.id for recipe in found})
    if lost and every:
        raise InputError(f"{len(lost)} statements belong to no task in {out}, first {lost[0]!r}")
    _distinct([*(r for r in there.values() if r.id not in {f.id for f in found}), *found])
    _save(folder, files, found)
    _forget(folder, parts, {recipe.id for recipe in found})
    lines = [json.dumps(rows[key], ensure_ascii=False) for key in sorted(rows)]
    write(folder / "pairs.json", "[\n" + ",\n".join(lines) + "\n]\n")
    return found


def _shown(recipe: Recipe) -> tuple[str, str, frozenset[str]]:
    """What makes a task of a step the same: where it starts from, and its failing tests."""
    return recipe.package, recipe.source.version, frozenset(recipe.fail_to_pass)


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["package"], row["old"], row["new"]


def _recipes(folder: Path) -> dict[Path, list[Recipe]]:
    """File → its recipes, of the version-diffs in a folder."""
    found = {}
    for path in sorted((folder / "tasks").glob("*.json*")):
        text = path.read_text(encoding="utf-8")
        texts = text.splitlines() if path.suffix == ".jsonl" else [text]
        recipes = [load(line, path.name) for line in texts if line.strip()]
        found[path] = [recipe for recipe in recipes if recipe.fixed is not None]
    return found


def _forget(folder: Path, made: Mapping[tuple[str, str, str], set[str]], shipped: set[str]) -> None:
    """Take out of ``dropped.json`` what is shipped again, or is no part of its step any more."""
    noted = dropped(folder)
    kept = {}
    for task, why in noted.items():
        parts = [ids for (package, _, new), ids in made.items() if of_step(task, package, new)]
        if task not in shipped and (not parts or task in parts[0]):
            kept[task] = why
    if kept != noted:
        write(folder / DROPPED, json.dumps(kept, indent=0, sort_keys=True) + "\n")


def _distinct(recipes: list[Recipe]) -> None:
    shown: dict[tuple[str, frozenset[str]], str] = {}
    for recipe in recipes:
        other = shown.setdefault((recipe.package, frozenset(recipe.fail_to_pass)), recipe.id)
        if other != recipe.id:
            raise InputError(
                f"{recipe.id} and {other} are shown by the same tests; ship one of them"
            )


def _save(folder: Path, files: Mapping[Path, list[Recipe]], found: list[Recipe]) -> None:
    """Add tasks to the file of their package; one that has a file of its own stays there."""
    alone = {recipe.id for p, rs in files.items() if p.suffix == ".json" for recipe in rs}
    for package in sorted({recipe.package for recipe in found}):
        path = folder / "tasks" / f"{package}-version-diff.jsonl"
        listed = {recipe.id: recipe for recipe in files.get(path, ())}
        listed |= {r.id: r for r in found if r.package == package and r.id not in alone}
        if listed:
            lines = [recipe.model_dump_json(exclude_defaults=True) for recipe in listed.values()]
            write(path, "\n".join(lines) + "\n")


def _shipped(recipe: Recipe, statement: str) -> Recipe:
    """A recipe with its statement, what its tests need by name where the table has that file."""
    table = {file: name for name, file in pinned().items()}
    requires = tuple(
        file if isinstance(file, str) else table.get(file, file) for file in recipe.requires
    )
    assert recipe.fixed is not None
    green = f"{recipe.package}-{recipe.source.version}-{recipe.fixed.version}"
    update = {"statement": statement.strip(), "requires": requires, "green": green}
    return recipe.model_copy(update=update)
