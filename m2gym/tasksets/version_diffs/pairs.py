"""Measure many pairs: ``python -m m2gym.tasksets.version_diffs.pairs LIST OUT [--statements F]``.

``LIST`` is a JSON list of ``[package, old, new]``, or the word ``shipped``: the pairs of the tasks
that ship with m2gym (with ``--only``, of some packages), which are then made anew into ``--data``,
with their statements. Each pair's outcome is written to ``OUT/PACKAGE-NEW.json`` as soon as it is
known: recipes (with generated statements), green tests, what the failing tests said, or the reason
why no task came of it. A pair that has its file is not measured again, so a run can be stopped and
goes on where it was; a machine's failure leaves no file. With ``FILE``, a JSON object of task id →
statement, the tasks that have one are shipped (`ship`); ``--left``, an object of task id →
reason, says why others are not. `steps` lists the steps between final releases of a package.
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
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import DownloadError, InfraError, InputError, VerifierError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.fetch import pip_python
from m2gym.tasksets.swe_repo.shipped import recipes
from m2gym.tasksets.swe_repo.splits import split_of
from m2gym.tasksets.swe_repo.tried import DATA
from m2gym.tasksets.version_diffs.pair import open_pair
from m2gym.tasksets.version_diffs.ship import ship
from m2gym.tasksets.version_diffs.version_diff import find_parts
from m2gym.workspaces import make_workspace

Step = tuple[str, str, str]
MAX_SECONDS = 1800.0
"""Bound of measuring one pair; the project's choice."""


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
    ("takes too long", "takes more than"),
    ("not verified", "no part is verified"),
)


def reason_kind(reason: str) -> str:
    """The row of the funnel that a reason belongs to.

    >>> reason_kind("a-1.1: 300 tests fail on the old source, too many")
    'too many failing tests'
    """
    return next((kind for kind, sign in _KINDS if re.search(sign, reason)), "no usable archive")


def run(listed: Iterable[Step], out: Path, cache: Cache, limit: float = MAX_SECONDS) -> None:
    """Measure the pairs that have no file in ``out`` yet; tells what it does on stderr.

    A pair that takes longer than ``limit`` seconds becomes no task, with that reason.
    """
    out.mkdir(parents=True, exist_ok=True)
    for step in listed:
        target = out / f"{step[0]}-{step[2]}.json"
        if target.exists():
            continue
        try:
            outcome = asyncio.run(_within(step, cache, limit))
        except InfraError as error:
            print(f"{step}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        target.with_suffix(".part").write_text(json.dumps(outcome, indent=1), encoding="utf-8")
        target.with_suffix(".part").replace(target)
        said = outcome.get("reason") or f"{len(outcome['recipes'])} tasks {outcome['dropped']}"
        print(f"{step}: {said} ({outcome['seconds']} s)", file=sys.stderr, flush=True)


async def _within(step: Step, cache: Cache, limit: float) -> dict[str, Any]:
    try:
        return await asyncio.wait_for(measure_pair(step, cache), limit)
    except TimeoutError:
        reason = f"{step[0]}-{step[2]}: measuring it takes more than {limit:g} s"
        row = dict(zip(("package", "old", "new"), step, strict=True))
        return {**row, "reason": reason, "kind": reason_kind(reason), "seconds": limit}


def shipped(only: Collection[str] | None = None) -> tuple[list[Step], dict[str, str]]:
    """The pairs whose tasks ship with m2gym, and the statements of these by task id.

    With ``only``, those of some packages.
    """
    listed: dict[Step, None] = {}
    statements = {}
    for recipe in recipes().values():
        if recipe.fixed is not None and (only is None or recipe.package in only):
            listed[recipe.package, recipe.source.version, recipe.fixed.version] = None
            statements[recipe.id] = recipe.statement
    return list(listed), statements


def main(arguments: Sequence[str]) -> None:
    """Run as a command."""
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    parser = argparse.ArgumentParser(
        prog="python -m m2gym.tasksets.version_diffs.pairs", description=__doc__
    )
    parser.add_argument("list", type=Path, help="JSON list of [package, old, new], or: shipped")
    parser.add_argument("out", type=Path, help="folder for the outcomes")
    parser.add_argument("--statements", type=Path, help="JSON object: task id → statement")
    parser.add_argument("--left", type=Path, help="JSON object: task id → why it is not shipped")
    parser.add_argument("--data", type=Path, default=DATA, help="where recipes are written")
    parser.add_argument("--only", nargs="*", help="shipped: of these packages")
    chosen = parser.parse_args(arguments)
    if str(chosen.list) == "shipped":
        if chosen.data == DATA:
            parser.error("shipped: name a folder for the recipes by --data")
        listed, statements = shipped(chosen.only or None)
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
        left = json.loads(chosen.left.read_text(encoding="utf-8")) if chosen.left else {}
        print(f"{len(ship(chosen.out, statements, chosen.data, left=left))} tasks are shipped")


if __name__ == "__main__":
    main(sys.argv[1:])
