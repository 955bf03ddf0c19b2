"""A release ready to be worked on: fetched, laid out, its tests' needs resolved, its tests run.

`open_release` costs a download and a resolver; `baseline` runs the tests as they are, three times,
and once more under a profiler that notes which functions each test runs, and how deep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2gym.core.errors import VerifierError
from m2gym.core.task import PreparedTask
from m2gym.tasksets.outcomes.measure import RUNS, MakeBox, Outcomes, run_once
from m2gym.tasksets.outcomes.screen import Screen
from m2gym.tasksets.registry.cache import Cache, Progress, silent
from m2gym.tasksets.registry.fetch import RegistryFile, pin
from m2gym.tasksets.registry.resolve import needs_of, resolve
from m2gym.tasksets.registry.sdist import PackageRejectedError, files_of
from m2gym.tasksets.swe_repo.repository import Repository, build_repository, prepare_to_measure
from m2gym.tasksets.swe_repo.unsteady import unsteady

MEASURE_SECONDS = 120.0
"""Bound of one run of a release's tests; the project's choice."""
COMMANDS: tuple[tuple[str, ...], ...] = (
    (),
    ("-o", "addopts="),
    ("-o", "addopts=", "-o", "filterwarnings="),
)
"""Extra pytest arguments that are tried in turn: options of plugins and categories of warnings we
lack stop pytest."""

Function = tuple[str, int]
"""A function: its file and its first line, decorators included."""


@dataclass(frozen=True)
class Release:
    """A release, its pristine tree (built as a task's), and what its tests need."""

    file: RegistryFile
    requires: tuple[str | RegistryFile, ...]
    built: Repository
    prepared: PreparedTask

    @property
    def name(self) -> str:
        """``project-version``: the name of its list of green tests."""
        return f"{self.file.project}-{self.file.version}"

    def sources(self) -> dict[str, bytes]:
        """Path → bytes of the package's own Python files."""
        inside = tuple(f"{source}/" for source in self.built.sources)
        hidden = set(files_of(self.built.hidden))
        paths = (p for p in files_of(self.built.root) if p.endswith(".py") and p not in hidden)
        kept = (p for p in paths if p.startswith(inside) or p in self.built.sources)
        return {path: (self.built.root / path).read_bytes() for path in kept}


@dataclass(frozen=True)
class Baseline:
    """What a release's tests do as they are.

    ``ran`` maps a function to the green tests that run it and, for each, how many of the package's
    own functions lie between (0: the test calls it itself).
    """

    green: tuple[str, ...]
    flaky: tuple[str, ...]
    command: tuple[str, ...]
    seconds: float
    ran: Mapping[Function, Mapping[str, int]]


def open_release(
    package: str,
    version: str | None,
    cache: Cache,
    *,
    requires: Sequence[str | RegistryFile] | None = None,
    portable: bool = False,
    progress: Progress = silent,
) -> Release:
    """A release of the registry (default: the newest), ready for its tests to be run.

    Raises:
        DownloadError: it, or what its tests need, is not to be had.
        PackageRejectedError: it has no tests or no import package, is no good archive, or what it
            needs cannot be resolved.
    """
    progress(f"{package}: fetching", 0, 1)
    file = pin(package, version, cache=cache)
    return release_of(file, cache, requires=requires, portable=portable, progress=progress)


def release_of(
    file: RegistryFile,
    cache: Cache,
    *,
    requires: Sequence[str | RegistryFile] | None = None,
    portable: bool = False,
    progress: Progress = silent,
) -> Release:
    """As `open_release`, of a pinned archive."""
    if requires is None:
        requires = resolve(needs_of(file, cache), cache, portable=portable)
    built = build_repository(file, None, (), (), cache, progress)
    prepared = prepare_to_measure(file, built, requires, MEASURE_SECONDS, cache, progress)
    return Release(file, tuple(requires), built, prepared)


async def baseline(
    release: Release, make_box: MakeBox, command: Sequence[str] | None = None
) -> Baseline:
    """Run a release's tests as they are.

    Raises:
        PackageRejectedError: no test passes each time, or they take too long.
        InfraError: a box failed.
    """
    tests = release.built.test_paths()
    tried = COMMANDS if command is None else (tuple(command),)
    first: Outcomes | None = None
    used: tuple[str, ...] = ()
    for used in tried:
        try:
            first = await run_once(release.prepared, tests, used, make_box, fixed=False)
        except VerifierError as error:
            raise PackageRejectedError(
                f"{release.name}: its tests give no outcome within {MEASURE_SECONDS:g} s: {error}"
            ) from error
        if first.tests:
            break
    if first is None or not any(outcome == "passed" for outcome in first.tests.values()):
        why = next(iter((first.messages if first else {}).values()), "nothing was collected")
        raise PackageRejectedError(f"{release.name}: no test passes: {why[-300:]}")
    again = (
        run_once(release.prepared, tests, used, make_box, fixed=False) for _ in range(RUNS - 1)
    )
    try:
        runs = [first, *await asyncio.gather(*again)]
    except VerifierError as error:
        raise PackageRejectedError(f"{release.name}: its tests do not always end") from error
    shaky = unsteady(release.file.project, first.tests)
    names = [n for n, outcome in first.tests.items() if outcome == "passed" and n not in shaky]
    green = [n for n in names if all(run.tests.get(n) == "passed" for run in runs)]
    seen = {name for run in runs for name in run.tests}
    flaky = sorted(shaky | {n for n in seen if len({run.tests.get(n) for run in runs}) > 1})
    if not green:
        raise PackageRejectedError(f"{release.name}: no test passes in each of {RUNS} runs")
    ran = await _trace(release, make_box, used, green)
    seconds = sorted(run.seconds for run in runs)[len(runs) // 2]
    return Baseline(tuple(green), tuple(flaky), used, round(seconds, 2), ran)


async def _trace(
    release: Release, make_box: MakeBox, command: Sequence[str], green: Sequence[str]
) -> dict[Function, dict[str, int]]:
    async with Screen(release.prepared, make_box, command) as screen:
        answer = await screen.ask(
            {}, release.built.test_paths(), only=green, trace=True, budget=3 * MEASURE_SECONDS
        )
    if not answer.whole:
        raise PackageRejectedError(f"{release.name}: its tests do not stand a profiler")
    wanted = set(green)
    ran: dict[Function, dict[str, int]] = {}
    for test, codes in answer.ran.items():
        if test in wanted:
            for number, depth in codes:
                path, line = answer.functions[number]
                inner = ran.setdefault((path, line), {})
                inner[test] = min(depth, inner.get(test, depth))
    return ran
