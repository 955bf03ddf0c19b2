"""Tasks from two releases: the older one's source under the newer one's tests, in one call.

fetch ─ resolve ─ measure (three runs a side) ─ split ─ describe ─ verify (gold 1, no-op 0) ─ task
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase

from m2gym.core.background import run_sync
from m2gym.core.errors import VerifierError
from m2gym.core.task import Split, WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.outcomes.measure import RUNS, MakeBox, Measured, failed, judged, measure
from m2gym.tasksets.outcomes.screen import Screen
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent
from m2gym.tasksets.registry.fetch import RegistryFile
from m2gym.tasksets.registry.sdist import PackageRejectedError, files_of
from m2gym.tasksets.statements.check import Finding, check_statement, repository_tests
from m2gym.tasksets.statements.describe import Facts
from m2gym.tasksets.statements.retell import retell
from m2gym.tasksets.swe_repo.recipe import Recipe
from m2gym.tasksets.swe_repo.recipe_taskset import RecipeTaskset, build
from m2gym.tasksets.swe_repo.release import COMMANDS
from m2gym.tasksets.swe_repo.repository import prepare_task
from m2gym.tasksets.swe_repo.splits import split_of
from m2gym.tasksets.swe_repo.unsteady import unsteady
from m2gym.tasksets.version_diffs.apart import FAULTS, by_fault
from m2gym.tasksets.version_diffs.narrow import narrowed
from m2gym.tasksets.version_diffs.pair import Pair, moving, open_pair
from m2gym.tasksets.version_diffs.split import Part, Splitter
from m2gym.workspaces import make_workspace

MAX_FAIL_TO_PASS = 40
"""More failing tests than this in one part are a new feature or a broken set-up; the project's
choice."""
EVIDENCE = 50
"""So many failed tests a verdict names at most (`m2gym.tasksets.outcomes.measure.failed`)."""
MAX_FAILING = 120
"""More failing tests than this in a whole step are not looked at; the project's choice."""


@dataclass
class Found:
    """What came of a pair: recipes, the newer release's green tests, and what was left out."""

    pair: Pair
    measured: Measured
    recipes: list[Recipe] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)


class VersionDiff(RecipeTaskset):
    """The tasks of a pair of releases.

    ``dropped`` says why parts of the step did not become tasks (part → reason); ``findings`` is
    what the checks of statements see in a generated statement (id → findings); ``seconds`` is what
    the call took.
    """

    def __init__(self, found: Found, seconds: float, cache: Cache) -> None:
        recipes = {recipe.id: recipe for recipe in found.recipes}
        green = found.measured.green
        super().__init__(f"version-diff-{found.pair.name}", recipes, lambda _: green, cache=cache)
        self.dropped, self.findings, self.seconds = found.dropped, found.findings, seconds

    def __repr__(self) -> str:
        why = "; ".join(self.dropped.values())
        return f"<{self.name}: {len(self.recipes)} tasks in {self.seconds:.1f} s; dropped: {why}>"


async def find_parts(
    pair: Pair,
    make_box: MakeBox,
    cache: Cache,
    *,
    split: Split,
    command: Sequence[str] | None = None,
    runs: int = RUNS,
    verdicts: int = RUNS,
    progress: Progress = silent,
    apart: bool = True,
) -> Found:
    """Measure a pair, take it apart, and verify each part.

    Args:
        pair: the two releases.
        make_box: makes the boxes.
        cache: where built trees are kept.
        split: of all the tasks.
        command: extra pytest arguments (default: found).
        runs: runs of each side.
        verdicts: verdicts on each part's reference change, and on no change at all.
        progress: is told what goes on.
        apart: whether a step of several fixes is taken apart.

    Raises:
        PackageRejectedError: no task comes of this pair; the message is the reason.
        InfraError: a box failed.
    """
    progress(f"{pair.name}: running its tests", 0, 3)
    measured, used = await _measured(pair, make_box, command, runs)
    measured = await _judgeable(pair, measured, used, make_box, cache)
    failing = measured.fail_to_pass
    kept = set(measured.green) - set(failing) - set(measured.not_kept)
    found = Found(pair, measured)
    progress(f"{pair.name}: taking it apart by {len(failing)} failing tests", 1, 3)
    async with Screen(pair.prepared, make_box, used) as screen:
        splitter = Splitter(pair.built, screen, failing, sorted(kept))
        parts = await splitter.parts() if apart else [Part(failing, ((),))]
        named = _named(pair.name, parts)
        named = {n: await narrowed(splitter, part, splitter.kept) for n, part in named.items()}
        answer = await screen.ask(
            splitter.with_only(()), splitter.tests, only=failing, explain=True
        )
    lost = await _lost(pair, measured, used, make_box, cache, verdicts)
    for number, (name, part) in enumerate(named.items(), 1):
        progress(f"{name}: verifying", 1 + number, 2 + len(named))
        if len(part.fail_to_pass) > MAX_FAIL_TO_PASS:
            found.dropped[name] = f"{len(part.fail_to_pass)} tests belong together, too many"
            continue
        if fine := set(part.fail_to_pass) - lost:
            found.dropped[name] = f"without a change {len(fine)} of its tests are not seen to fail"
            continue
        statement = _statement(pair, part, answer.facts, measured.messages)
        recipe = _recipe(pair, part, measured, name, statement, split, used)
        verified, reason = await _verified(recipe, part, measured, make_box, cache, verdicts)
        if verified is None:
            found.dropped[name] = reason
            continue
        found.recipes.append(verified)
        built = await asyncio.to_thread(build, verified, cache)
        messages = {t: measured.messages[t] for t in part.fail_to_pass if t in measured.messages}
        found.findings[name] = await asyncio.to_thread(
            check_statement, statement, built, part.fail_to_pass, messages
        )
    if not found.recipes:
        reasons = "; ".join(f"{name}: {why}" for name, why in found.dropped.items())
        raise PackageRejectedError(f"{pair.name}: no part is verified: {reasons}")
    return found


async def _measured(
    pair: Pair, make_box: MakeBox, command: Sequence[str] | None, runs: int
) -> tuple[Measured, tuple[str, ...]]:
    def check(first: Measured) -> None:
        if not first.green:
            why = next(iter(first.messages.values()), "nothing was collected")
            raise _NoTestPassesError(f"{pair.name}: no test passes: {why[-300:]}")
        if not first.fail_to_pass:
            raise PackageRejectedError(
                f"{pair.name}: no test of the new release fails on the old source"
            )
        if len(first.fail_to_pass) > MAX_FAILING:
            raise PackageRejectedError(
                f"{pair.name}: {len(first.fail_to_pass)} tests fail on the old source, too many"
            )

    tried = COMMANDS if command is None else (tuple(command),)
    for number, used in enumerate(tried, 1):
        try:
            measured = await measure(
                pair.prepared, pair.built.test_paths(), used, make_box, runs=runs, check=check
            )
            break
        except _NoTestPassesError as error:
            if number == len(tried):
                raise PackageRejectedError(str(error)) from error
        except VerifierError as error:
            raise PackageRejectedError(
                f"{pair.name}: its tests give no outcome in time: {error}"
            ) from error
    shaky = moving(measured.green) | unsteady(pair.new.project, measured.green)
    measured = _without(measured, shaky)
    check(measured)
    return measured, tuple(used)


class _NoTestPassesError(PackageRejectedError):
    """No test passes with these arguments of pytest."""


async def _judgeable(
    pair: Pair, measured: Measured, command: Sequence[str], make_box: MakeBox, cache: Cache
) -> Measured:
    """Without tests that the verifier sees fail although the whole step is there.

    It runs them as a user who does not own the tests' files, in an order of its own.
    """
    part = Part(measured.fail_to_pass, ((),))
    recipe = _recipe(pair, part, measured, pair.name, "", "train", command)
    prepared = prepare_task(recipe.task(measured.green), pair.built, pair.requires, cache)
    try:
        [verdict] = await judged(prepared, make_box, gold=True, runs=1)
    except VerifierError as error:
        raise PackageRejectedError(f"{pair.name}: it cannot be judged: {error}") from error
    if verdict.reward == 1.0:
        return measured
    lost = failed(verdict)
    left = _without(measured, lost)
    if not lost or not left.fail_to_pass:
        evidence = [score.evidence for score in verdict.scores.values()]
        raise PackageRejectedError(
            f"{pair.name}: the verifier does not accept the whole step: {str(evidence)[:400]}"
        )
    return left


def _without(measured: Measured, out: Collection[str]) -> Measured:
    """What was measured, some tests left out as not to be relied on."""
    return Measured(
        green=tuple(t for t in measured.green if t not in out),
        fail_to_pass=tuple(t for t in measured.fail_to_pass if t not in out),
        not_kept=tuple(t for t in measured.not_kept if t not in out),
        flaky=tuple(sorted({*measured.flaky, *out})),
        seconds=measured.seconds,
        messages=measured.messages,
    )


def _named(step: str, parts: Sequence[Part]) -> dict[str, Part]:
    """Parts by their tasks' ids: those of a step are numbered, faults of one part have letters."""
    named: dict[str, Part] = {}
    for number, part in enumerate(parts, 1):
        name = step if len(parts) == 1 else f"{step}-{number}"
        faults = by_fault(part, FAULTS.get(step, ()))
        letters = ascii_lowercase if len(faults) > 1 else ("",)
        named |= {f"{name}{letter}": fault for letter, fault in zip(letters, faults, strict=False)}
    return named


def _statement(
    pair: Pair, part: Part, facts: Mapping[str, Facts], messages: Mapping[str, str]
) -> str:
    reports = {name: text for name, text in messages.items() if name in _told(part.fail_to_pass)}
    tests = repository_tests(pair.built, part.fail_to_pass, reports)
    seed = int(key_of(pair.name, part.fail_to_pass)[:8], 16)
    return retell(pair.new.project, tests, facts, seed)


def _told(tests: Sequence[str]) -> set[str]:
    """Of what failure reports may be: the tests, and their files (which may not be importable)."""
    return {*tests, *(test.partition("::")[0] for test in tests)}


def _recipe(
    pair: Pair,
    part: Part,
    measured: Measured,
    name: str,
    statement: str,
    split: Split,
    command: Sequence[str],
) -> Recipe:
    others = set(measured.fail_to_pass) - set(part.fail_to_pass)
    out = others | set(measured.not_kept)
    return Recipe(
        id=name,
        kind="version-diff",
        split=split,
        package=pair.new.project,
        source=pair.old,
        fixed=pair.new,
        statement=statement,
        fail_to_pass=part.fail_to_pass,
        not_kept=tuple(t for t in measured.green if t in out),
        green=pair.green,
        requires=pair.requires,
        command=tuple(command),
        artifacts=pair.built.sources,
        changed=1,
        seconds=max(measured.seconds, 0.01),
    )


async def _lost(
    pair: Pair,
    measured: Measured,
    command: Sequence[str],
    make_box: MakeBox,
    cache: Cache,
    runs: int,
) -> set[str]:
    """The failing tests that the verifier sees fail, each time, when nothing is changed.

    The box without a change is the same for all parts of a step, so all are judged at once: a part
    is judged 0 if one of its tests is among these.
    """
    lost = set(measured.fail_to_pass)
    for start in range(0, len(measured.fail_to_pass), EVIDENCE):
        chosen = measured.fail_to_pass[start : start + EVIDENCE]
        recipe = _recipe(pair, Part(chosen, ((),)), measured, pair.name, "", "train", command)
        task = recipe.task(measured.green)
        prepared = prepare_task(task, pair.built, pair.requires, cache)
        try:
            for verdict in await judged(prepared, make_box, runs=runs):
                lost -= set(chosen) - (failed(verdict).keys() if verdict.reward == 0.0 else set())
        except VerifierError as error:
            raise PackageRejectedError(f"{pair.name}: it cannot be judged: {error}") from error
    return lost


async def _verified(
    recipe: Recipe,
    part: Part,
    measured: Measured,
    make_box: MakeBox,
    cache: Cache,
    runs: int,
) -> tuple[Recipe | None, str]:
    """The recipe with the narrowest reference change that is judged 1 each time."""
    reason = ""
    for pieces in part.references:
        tried = recipe.model_copy(update={"part": pieces})
        built = await asyncio.to_thread(build, tried, cache)
        changed = sum(path.endswith(".py") for path in files_of(built.fixed)) or 1
        tried = tried.model_copy(update={"changed": changed})
        prepared = prepare_task(tried.task(measured.green), built, tried.requires, cache)
        try:
            verdicts = await judged(prepared, make_box, gold=True, runs=runs)
        except VerifierError as error:
            return None, f"it cannot be judged: {error}"
        rewards = [verdict.reward for verdict in verdicts]
        if set(rewards) == {1.0}:
            return tried, ""
        reason = f"the reference change is judged {rewards}"
    return None, reason


async def version_diff_async(
    package: str,
    old: str,
    new: str,
    *,
    split: Split | None = None,
    requires: Sequence[str | RegistryFile] | None = None,
    command: Sequence[str] | None = None,
    portable: bool = False,
    runs: int = RUNS,
    workspace: str = "auto",
    cache: Cache | str | Path | None = None,
    progress: Progress = silent,
) -> VersionDiff:
    """Tasks from a step between two releases of any package: ``old``'s source, ``new``'s tests.

    Both are fetched and what the tests import is resolved and pinned as of the newer release's
    time; nothing of them runs outside a box. The tests run ``runs`` times a side in fresh boxes; a
    step that mixes several fixes gives one task a fix. Statements are generated from what the
    failing tests show.

    Args:
        package: the project's name in the registry.
        old: the release the agent starts from.
        new: the release whose tests judge, and whose source is the reference change.
        split: of all the tasks (default: the package's in the project's table, else ``train``).
        requires: what the tests need, as pinned names or files (default: found and resolved).
        command: extra pytest arguments (default: found).
        portable: pin only files that any platform can use.
        runs: runs of each side, and verdicts on each reference change and on no change.
        workspace: the kind of boxes.
        cache: where files are kept (default: the user's cache).
        progress: is told what goes on.

    Raises:
        DownloadError: a file is not to be had.
        PackageRejectedError: no task can come of the pair; the message is the reason.
        InfraError: a box failed.
    """
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    started = time.monotonic()
    store = cache if isinstance(cache, Cache) else Cache(cache)
    opened: Callable[[], Pair] = lambda: open_pair(  # noqa: E731
        package, old, new, store, requires=requires, portable=portable, progress=progress
    )
    pair = await asyncio.to_thread(opened)
    found = await find_parts(
        pair,
        lambda spec: _box(spec, workspace),
        store,
        split=split or split_of(pair.new.project),
        command=command,
        runs=runs,
        progress=progress,
    )
    progress(f"{pair.name}: {len(found.recipes)} tasks", 1, 1)
    return VersionDiff(found, time.monotonic() - started, store)


def _box(spec: WorkspaceSpec, kind: str) -> Workspace:
    return make_workspace(spec, kind)


def version_diff(
    package: str,
    old: str,
    new: str,
    *,
    split: Split | None = None,
    requires: Sequence[str | RegistryFile] | None = None,
    command: Sequence[str] | None = None,
    portable: bool = False,
    runs: int = RUNS,
    workspace: str = "auto",
    cache: Cache | str | Path | None = None,
    progress: Progress = silent,
) -> VersionDiff:
    """`version_diff_async`, waited for; works inside a notebook's running loop."""
    return run_sync(
        version_diff_async(
            package,
            old,
            new,
            split=split,
            requires=requires,
            command=command,
            portable=portable,
            runs=runs,
            workspace=workspace,
            cache=cache,
            progress=progress,
        )
    )
