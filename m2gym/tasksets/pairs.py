"""Measure many pairs of releases: ``python -m m2gym.tasksets.pairs LIST OUT [--statements FILE]``.

``LIST`` is a JSON list of ``[package, old, new]``, or the word ``shipped``: the pairs of the tasks
that ship with m2gym, which are then made anew into ``--data``, with their statements. Each pair's
outcome is written to ``OUT/PACKAGE-NEW.json`` as soon as it is known: recipes (with generated
statements), green tests, what the failing tests said, or the reason why no task came of it. A pair
that has its file is not measured again, so a run can be stopped and goes on where it was; a
machine's failure leaves no file. With ``FILE``, a JSON object of task id → statement, the tasks
that have one are shipped: written as recipes, with one row a pair in ``pairs.json``, into the data
of ``swe-repo``. `steps` lists the steps between final releases of a package.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import DownloadError, InfraError, InputError, VerifierError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.cache import Cache
from m2gym.tasksets.fetch import pip_python
from m2gym.tasksets.pair import open_pair
from m2gym.tasksets.recipe import Recipe, group_by_file, pinned
from m2gym.tasksets.splits import split_of
from m2gym.tasksets.swe_repo import recipes
from m2gym.tasksets.version_diffs import find_parts
from m2gym.workspaces import make_workspace

Step = tuple[str, str, str]
DATA = Path(__file__).parent / "data" / "swe_repo"


def steps(package: str, newest: int = 10) -> list[Step]:
    """The steps between the ``newest`` final releases of a package, newest first.

    Raises:
        DownloadError: the index does not list it.
    """
    command = [pip_python(), "-m", "pip", "index", "versions", package]
    done = subprocess.run(
        [*command, "--disable-pip-version-check"], capture_output=True, text=True, check=False
    )
    listed = re.search(r"Available versions: (.*)", done.stdout)
    if listed is None:
        raise DownloadError(f"pip lists no versions of {package!r}: {done.stderr.strip()[-300:]}")
    versions = [v for v in listed[1].split(", ") if re.fullmatch(r"\d+(\.\d+)*", v)][:newest]
    return [(package, old, new) for new, old in itertools.pairwise(versions)]


async def measure_pair(step: Step, cache: Cache, *, portable: bool = True) -> dict[str, Any]:
    """What came of one pair, as JSON-able data.

    Raises:
        InfraError: a file was not to be had, a box failed.
    """
    package, old, new = step

    def make_box(spec: WorkspaceSpec) -> Workspace:
        return make_workspace(spec, "auto")

    started = time.monotonic()
    outcome: dict[str, Any] = {"package": package, "old": old, "new": new}
    try:
        pair = await asyncio.to_thread(open_pair, package, old, new, cache, portable=portable)
        found = await find_parts(pair, make_box, cache, split=split_of(package), verdicts=1)
    except (InputError, VerifierError) as error:
        outcome |= {"reason": str(error), "kind": reason_kind(str(error))}
    else:
        shown = {test for recipe in found.recipes for test in recipe.fail_to_pass}
        files = {test.partition("::")[0] for test in shown}
        outcome |= {
            "recipes": [recipe.model_dump(mode="json") for recipe in found.recipes],
            "dropped": found.dropped,
            "green": list(found.measured.green),
            "flaky": list(found.measured.flaky),
            "messages": {
                name: text
                for name, text in found.measured.messages.items()
                if name in shown or name in files
            },
        }
    return {**outcome, "seconds": round(time.monotonic() - started, 1)}


_KINDS = (
    ("no failing test", "no test of the new release fails"),
    ("too many failing tests", "too many"),
    ("the same source", "the same source"),
    ("no test passes", "no test passes"),
    ("no tests in the archive", "carries no tests"),
    ("no package in the archive", "no import package"),
    ("needs not resolved", "cannot be resolved"),
    ("needs not resolved", "did not resolve"),
    ("needs not resolved", "neither a pure wheel"),
    ("needs not resolved", "need .* itself"),
    ("gives no outcome in time", "no outcome"),
    ("not verified", "no part is verified"),
)


def reason_kind(reason: str) -> str:
    """The row of the funnel that a reason belongs to.

    >>> reason_kind("a-1.1: 300 tests fail on the old source, too many")
    'too many failing tests'
    """
    return next((kind for kind, sign in _KINDS if re.search(sign, reason)), "no usable archive")


def run(listed: Iterable[Step], out: Path, cache: Cache) -> None:
    """Measure the pairs that have no file in ``out`` yet; tells what it does on stderr."""
    out.mkdir(parents=True, exist_ok=True)
    for step in listed:
        target = out / f"{step[0]}-{step[2]}.json"
        if target.exists():
            continue
        try:
            outcome = asyncio.run(measure_pair(step, cache))
        except InfraError as error:
            print(f"{step}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        target.with_suffix(".part").write_text(json.dumps(outcome, indent=1), encoding="utf-8")
        target.with_suffix(".part").replace(target)
        said = outcome.get("reason") or f"{len(outcome['recipes'])} tasks {outcome['dropped']}"
        print(f"{step}: {said} ({outcome['seconds']} s)", file=sys.stderr, flush=True)


def shipped() -> tuple[list[Step], dict[str, str]]:
    """The pairs whose tasks ship with m2gym, and the statements of these by task id."""
    listed: dict[Step, None] = {}
    statements = {}
    for recipe in recipes().values():
        if recipe.fixed is not None:
            listed[recipe.package, recipe.source.version, recipe.fixed.version] = None
            statements[recipe.id] = recipe.statement
    return list(listed), statements


def ship(
    out: Path, statements: Mapping[str, str], folder: Path, *, every: bool = True
) -> list[Recipe]:
    """Write recipes, green lists and ``pairs.json`` from the outcomes in ``out``.

    Only tasks with a statement are shipped; without ``every`` a statement may be left over. The
    row of a pair says how many tasks came of it, how many of these are shipped, and why its other
    parts, or the whole pair, became none.

    Raises:
        InputError: a statement belongs to no task, or two tasks have the same failing tests.
    """
    rows = []
    chosen: dict[str, list[Recipe]] = {}
    for path in sorted(out.glob("*.json")):
        outcome = json.loads(path.read_text(encoding="utf-8"))
        row = {name: outcome[name] for name in ("package", "old", "new")}
        made = [Recipe.model_validate(recipe) for recipe in outcome.get("recipes", ())]
        taken = [
            _shipped(recipe, statements[recipe.id]) for recipe in made if recipe.id in statements
        ]
        if "kind" in outcome:
            rows.append({**row, "kind": outcome["kind"]})
        else:
            rows.append({**row, "parts": len(made), "shipped": len(taken)})
            if outcome["dropped"]:
                rows[-1]["dropped"] = outcome["dropped"]
        if taken:
            chosen.setdefault(outcome["package"], []).extend(taken)
            text = json.dumps(group_by_file(tuple(outcome["green"])), indent=1, ensure_ascii=False)
            _write(folder / "green" / f"{taken[0].green}.json", text + "\n")
    found = [recipe for listed in chosen.values() for recipe in listed]
    lost = sorted(statements.keys() - {recipe.id for recipe in found})
    if lost and every:
        raise InputError(f"{len(lost)} statements belong to no task in {out}, first {lost[0]!r}")
    shown: dict[tuple[str, frozenset[str]], str] = {}
    for recipe in found:
        other = shown.setdefault((recipe.package, frozenset(recipe.fail_to_pass)), recipe.id)
        if other != recipe.id:
            raise InputError(
                f"{recipe.id} and {other} are shown by the same tests; ship one of them"
            )
    for package, listed in chosen.items():
        lines = [recipe.model_dump_json(exclude_defaults=True) for recipe in listed]
        _write(folder / "tasks" / f"{package}-version-diff.jsonl", "\n".join(lines) + "\n")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    _write(folder / "pairs.json", "[\n" + ",\n".join(lines) + "\n]\n")
    return found


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


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Run as a command."""
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    parser = argparse.ArgumentParser(prog="python -m m2gym.tasksets.pairs", description=__doc__)
    parser.add_argument("list", type=Path, help="JSON list of [package, old, new], or: shipped")
    parser.add_argument("out", type=Path, help="folder for the outcomes")
    parser.add_argument("--statements", type=Path, help="JSON object: task id → statement")
    parser.add_argument("--data", type=Path, default=DATA, help="where recipes are written")
    chosen = parser.parse_args(arguments)
    if str(chosen.list) == "shipped":
        if chosen.data == DATA:
            parser.error("shipped: name a folder for the recipes by --data")
        listed, statements = shipped()
        run(listed, chosen.out, Cache())
        found = ship(chosen.out, statements, chosen.data, every=False)
        for name in sorted(statements.keys() - {recipe.id for recipe in found}):
            print(f"{name}: not made again", file=sys.stderr)
        print(f"{len(found)} tasks of {len(statements)} are made again")
        return
    listed = [(p, a, b) for p, a, b in json.loads(chosen.list.read_text(encoding="utf-8"))]
    run(listed, chosen.out, Cache())
    if chosen.statements:
        statements = json.loads(chosen.statements.read_text(encoding="utf-8"))
        print(f"{len(ship(chosen.out, statements, chosen.data))} tasks are shipped")


if __name__ == "__main__":
    main(sys.argv[1:])
