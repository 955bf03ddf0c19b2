"""Make injected bugs for ``swe-repo``: ``python -m m2gym.tasksets.injected.produce [--out DIR]``.

The table says which releases are tried, with which seed, and how many tasks are wanted. A release
that is done is not tried again (its line is in ``funnel.json``), so that a run can be stopped and
goes on where it was; a machine's failure leaves no line. Everything written is a recipe, a list of
test ids, or a count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from m2gym.core.blocking import run_blocking
from m2gym.core.errors import InfraError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.edits.operators import OPERATORS
from m2gym.tasksets.injected.finder import Finder, Funnel
from m2gym.tasksets.quality.grader import Verified
from m2gym.tasksets.quality.verified import read_state, save_state, write
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.sdist import PackageRejectedError
from m2gym.tasksets.swe_repo.recipe import Recipe, group_by_file, load
from m2gym.tasksets.swe_repo.release import Baseline, Release, baseline, open_release
from m2gym.tasksets.swe_repo.splits import split_of
from m2gym.tasksets.swe_repo.tried import DATA, read_funnel
from m2gym.workspaces import make_workspace

INTERRUPTED = 130
"""The exit code of a run that a signal stopped, as shells have it."""


@dataclass(frozen=True)
class Source:
    """One release to make tasks from: with one mistake (``singles``) and with two (``doubles``).

    With ``operators`` mistakes of these kinds alone are looked for, after the search of all kinds:
    its tasks and its list of green tests stay.
    """

    package: str
    version: str | None = None
    seed: int = 1
    singles: int = 8
    doubles: int = 0
    operators: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The search's name in the funnel."""
        name = f"{self.package}-{self.version or 'newest'}"
        return " ".join([name, *self.operators])


SOURCES = tuple(
    Source(*entry)
    for entry in (
        ("inflection", "0.5.1", 1, 6, 1),
        ("schema", "0.7.8", 1, 6, 1),
        ("cachetools", "5.5.2", 1, 6, 1),
        ("parse", "1.22.4", 1, 6, 1),
        ("itsdangerous", "2.2.0", 1, 6, 1),
        ("voluptuous", "0.16.0", 1, 6, 1),
        ("tabulate", "0.10.0", 1, 6, 1),
        ("tinydb", "4.9.0", 1, 6, 1),
        ("toolz", "1.2.0", 1, 6, 1),
        ("sqlparse", "0.6.1", 1, 6, 1),
        ("funcy", "2.1", 1, 8, 2),
        ("python-slugify", "9.2.0"),
        ("semver", "3.1.2", 1, 8, 2),
        ("xmltodict", "1.0.4"),
        ("simpleeval", "1.0.8"),
        ("pathspec", "1.1.1", 1, 9),
        ("bleach", "6.4.0", 1, 9),
        ("mistune", "3.4.0", 1, 9),
        ("pyflakes", "4.1.0", 1, 9),
        ("jinja2", "3.1.6", 1, 9),
        ("markdown", "3.11.3", 1, 9),
        ("pyasn1", "0.6.5", 1, 9),
        ("tinycss2", "1.5.1", 1, 9),
        ("marshmallow", "4.4.0", 1, 9),
        ("click", "8.5.1", 1, 8),
        ("markdown-it-py", "4.3.0"),
        ("isodate", "0.7.2"),
        ("boltons", "26.2.0"),
        ("tomlkit", "0.15.2"),
        ("natsort", "8.4.0"),
        ("werkzeug", "3.1.9"),
        ("icalendar", "7.3.2"),
        ("lark", "1.3.1"),
        ("humanize", "4.17.0"),
        ("beautifulsoup4", "4.15.0"),
        ("more-itertools", "11.2.1"),
        ("cssselect", "1.6.0"),
        ("jsonpointer", "3.12"),
        ("jsonpatch", "1.48"),
    )
)
"""Releases of packages whose sdists carry fast green tests; the project's choice."""

RARE = ("removed-copy", "break-continue")
"""Operators whose mistakes few tests notice: a search of all kinds ends before it finds some."""
SOURCES += tuple(
    Source(package, version, 1, 4, operators=RARE)
    for package, version in (("toolz", "1.2.0"), ("boltons", "26.2.0"))
)


async def produce(
    sources: Iterable[Source], out: Path, cache: Cache, concurrency: int, workspace: str
) -> dict[str, Any]:
    """Try every source that has no line in the funnel yet; the funnel, source by source."""
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    def make_box(spec: WorkspaceSpec) -> Workspace:
        return make_workspace(spec, workspace)

    funnel = read_funnel(out)
    for source in sources:
        key = source.key
        if key in funnel:
            continue
        started = time.monotonic()
        try:
            row = await _one(source, out, cache, concurrency, make_box)
        except PackageRejectedError as error:
            row = {"package": source.package, "tried": 0, "kept": 0, "rejected": str(error)}
        except InfraError as error:
            _say(f"{key}: not tried, this machine failed: {error}")
            continue
        row["seconds"] = round(time.monotonic() - started, 1)
        funnel = {**read_funnel(out), key: row}
        write(out / "funnel.json", json.dumps(funnel, indent=1, sort_keys=True) + "\n")
        _say(f"{key}: {row}")
    return funnel


async def _one(
    source: Source, out: Path, cache: Cache, concurrency: int, make_box: Any
) -> dict[str, Any]:
    release = await asyncio.to_thread(
        open_release, source.package, source.version, cache, portable=True
    )
    base = await baseline(release, make_box)
    there = _there(source, release, out)
    if source.operators:
        base = _as_before(release, base, out)
    found: list[Recipe] = []
    total = Funnel()
    verified: dict[str, Verified] = {}
    for mutations, wanted in ((1, source.singles), (2, source.doubles)):
        if not wanted:
            continue
        finder = Finder(
            release,
            base,
            make_box,
            cache,
            seed=source.seed + mutations - 1,
            wanted=wanted,
            split=split_of(source.package),
            mutations=mutations,
            operators=source.operators or OPERATORS,
            tries=40 * wanted,
            taken=[frozenset(recipe.fail_to_pass) for recipe in (*there, *found)],
            quality=True,
        )
        before = [*there, *found]
        finder.kept = partial(_keep, release, finder, before, out)
        found += await finder.run(concurrency)
        if source.operators and finder.base.green != base.green:
            raise PackageRejectedError(f"{release.name}: {_CHANGED}")
        base = finder.base
        verified |= finder.verified
        total.tried += finder.funnel.tried
        total.kept += finder.funnel.kept
        total.dropped += finder.funnel.dropped
    if found:
        _save(release, base, [*there, *found], out)
    save_state({**read_state(out), **verified}, out)
    return {
        "package": source.package,
        "version": release.file.version,
        "tests": len(base.green),
        "flaky": len(base.flaky),
        "tests_seconds": base.seconds,
        "tried": total.tried,
        "kept": total.kept,
        "dropped": dict(total.dropped.most_common()),
    }


_CHANGED = "a test of the list that its tasks are judged by does not pass each time any more"


def _there(source: Source, release: Release, out: Path) -> list[Recipe]:
    """Tasks of the release that other searches found: of none, where all operators are tried."""
    path = _file(release, out)
    if not source.operators or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    recipes = [load(line, path.name) for line in lines if line.strip()]
    own = set(source.operators)
    return [recipe for recipe in recipes if not own >= {m.operator for m in recipe.mutations}]


def _as_before(release: Release, base: Baseline, out: Path) -> Baseline:
    """The baseline with the list of green tests that the release's other tasks are judged by.

    Raises:
        PackageRejectedError: one of these tests did not pass each time now.
    """
    path = out / "green" / f"{release.name}.json"
    if not path.exists():
        return base
    listed = json.loads(path.read_text(encoding="utf-8"))
    green = tuple(f"{file}::{rest}" for file, names in listed.items() for rest in names)
    if not set(green) <= set(base.green):
        raise PackageRejectedError(f"{release.name}: {_CHANGED}")
    return replace(base, green=green)


def _file(release: Release, out: Path) -> Path:
    return out / "tasks" / f"{release.file.project}-injected.jsonl"


def _keep(release: Release, finder: Finder, before: list[Recipe], out: Path, _: Recipe) -> None:
    """Save what there is each time a task was found."""
    _save(release, finder.base, [*before, *finder.found], out)


def _save(release: Release, base: Baseline, found: Sequence[Recipe], out: Path) -> None:
    if not found:
        return
    green = json.dumps(group_by_file(base.green), indent=0, ensure_ascii=False)
    write(out / "green" / f"{release.name}.json", green + "\n")
    lines = [r.model_dump_json(exclude_defaults=True) for r in found]
    write(_file(release, out), "\n".join(lines) + "\n")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m m2gym.tasksets.injected.produce", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=DATA, help="folder of recipes")
    parser.add_argument("--only", nargs="*", help="packages (default: all)")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--workspace", default="auto")
    options = parser.parse_args(arguments)
    sources = [s for s in SOURCES if not options.only or s.package in options.only]
    work = produce(sources, options.out, Cache(), options.concurrency, options.workspace)
    try:
        run_blocking(work)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on with the releases that have no line yet")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
