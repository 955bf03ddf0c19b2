"""Measure many pairs of releases: ``python -m m2gym.tasksets.pairs LIST OUT``.

``LIST`` is a JSON list of ``[package, old, new]``. Each pair's outcome is written to
``OUT/PACKAGE-NEW.json`` as soon as it is known: recipes (with generated statements), green tests,
what the failing tests said, or the reason why no task came of it. A pair that has its file is not
measured again, so a run can be stopped and goes on where it was; a machine's failure leaves no
file. `steps` lists the steps between final releases of a package.
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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import DownloadError, InfraError, InputError, VerifierError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.cache import Cache
from m2gym.tasksets.fetch import pip_python
from m2gym.tasksets.pair import open_pair
from m2gym.tasksets.splits import split_of
from m2gym.tasksets.version_diffs import find_parts
from m2gym.workspaces import make_workspace

Step = tuple[str, str, str]


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


def main(arguments: Sequence[str]) -> None:
    """Run as a command."""
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    parser = argparse.ArgumentParser(prog="python -m m2gym.tasksets.pairs", description=__doc__)
    parser.add_argument("list", type=Path, help="JSON list of [package, old, new]")
    parser.add_argument("out", type=Path, help="folder for the outcomes")
    chosen = parser.parse_args(arguments)
    listed = [(p, a, b) for p, a, b in json.loads(chosen.list.read_text(encoding="utf-8"))]
    run(listed, chosen.out, Cache())


if __name__ == "__main__":
    main(sys.argv[1:])
