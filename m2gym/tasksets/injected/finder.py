"""Tasks from one release: a mistake is injected, and the release's own tests show it.

    places of every operator ─ reached by a test? ─ screen ─ statement ─ screen, all tests
                                                                              │
                  recipe ◄─ verdict 0 with the same failing tests, in fresh boxes

Three runs must agree on the failing tests: a forked pytest over the tests that run the changed
function, another over all tests, and the verifier's own in a fresh box. The reference change is the
release as it came, so its verdict is the same for every task of the release; it is asked for once,
three times. Every way out is counted (`Funnel`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from m2gym.core.errors import InputError, VerifierError
from m2gym.core.task import Split
from m2gym.tasksets.edits.mutate import functions, mutate_many, places
from m2gym.tasksets.edits.operators import OPERATORS
from m2gym.tasksets.outcomes.measure import MakeBox, failed, judged
from m2gym.tasksets.outcomes.screen import Answer, Screen
from m2gym.tasksets.quality.grader import Gold, Verified, digest_of, verify_task
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent
from m2gym.tasksets.registry.sdist import PackageRejectedError
from m2gym.tasksets.statements.check import check_statement
from m2gym.tasksets.statements.describe import describe
from m2gym.tasksets.swe_repo.recipe import MutationSpec, Recipe
from m2gym.tasksets.swe_repo.recipe_taskset import build
from m2gym.tasksets.swe_repo.release import Baseline, Function, Release
from m2gym.tasksets.swe_repo.repository import prepare_task

MAX_SHOWN, MAX_CASES = 8, 40
"""A mistake is kept when at most so many test functions, and cases of them, show it; the project's
choice."""
GOLD_ROUNDS = 3
"""How often tests that fail on the unchanged release are left out and it is judged anew; the
project's choice."""
FEW = 2 * MAX_SHOWN
"""Functions that more test functions run are tried last; the project's choice."""
A_FUNCTION = 2
"""So many tasks at most have their fault in the same function; the project's choice."""
PATIENCE = 60
"""The search ends after so many candidates without a task; the project's choice."""
GENERAL = {("exception", "Exception"), ("exception", "BaseException")}
"""Demands that any code meets."""
TEST_SECONDS = 5.0
"""Bound of one test while candidates are sifted; the project's choice."""
JOINED = "joined to another mistake, and counted with it"
ALONE = "left without a second mistake"
"""What becomes of candidates where tasks have several mistakes, other than being the first one."""


@dataclass(frozen=True)
class Candidate:
    """A place for a mistake, the function it lies in, and the tests that run this function."""

    mutation: MutationSpec
    function: Function
    reached: Mapping[str, int]


@dataclass
class Funnel:
    """How many candidates were tried, how many became tasks, and why the others did not."""

    tried: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, note: str = "") -> None:
        """Count a candidate that did not become a task."""
        self.dropped[reason] += 1
        if note:
            self.notes.append(f"{reason}: {note}")


def candidates(
    release: Release, base: Baseline, seed: int, operators: Iterable[str] = OPERATORS
) -> dict[str, list[Candidate]]:
    """Operator → its places in functions that tests run, the next one last.

    Shuffled by ``seed``; those in functions that many tests run, of which most are shown by too
    many of them, come after the others.
    """
    found: dict[str, list[Candidate]] = {name: [] for name in operators}
    green = set(base.green)
    for path, source in release.sources().items():
        spans = functions(source)
        for name, listed in found.items():
            for number, place in enumerate(places(source, name)):
                around = [line for start, end, line in spans if start <= place.start < end]
                function = (path, around[-1]) if around else None
                if function is None or function not in base.ran:
                    continue
                mutation = MutationSpec(operator=name, path=path, place=number, seed=seed)
                ran = {test: n for test, n in base.ran[function].items() if test in green}
                if ran:
                    listed.append(Candidate(mutation, function, ran))
    rng = random.Random(seed)
    for listed in found.values():
        rng.shuffle(listed)
        listed.sort(key=lambda c: _functions(c.reached) > FEW, reverse=True)
    return found


def _functions(tests: Iterable[str]) -> int:
    return len({test.partition("[")[0] for test in tests})


class Finder:
    """Looks for ``wanted`` tasks of one release; `found` grows as they come.

    What was begun is brought to its end: of several boxes at once a few tasks more may come.

    Args:
        mutations: mistakes a task has, each in another function and each shown by tests alone.
        operators: whose mistakes are tried (`m2gym.tasksets.edits.operators.OPERATORS`).
        split: the split of the tasks.
        tries: candidates looked at, at most.
        taken: sets of failing tests that are used already.
        kept: is told about each recipe as soon as it is verified.
        quality: also try each grader with wrong and good patches (`m2gym.tasksets.quality.grader`),
            keep what they show in `verified`, and drop the task when it is unfit.
    """

    def __init__(
        self,
        release: Release,
        base: Baseline,
        make_box: MakeBox,
        cache: Cache,
        *,
        seed: int,
        wanted: int,
        split: Split,
        mutations: int = 1,
        operators: Iterable[str] = OPERATORS,
        tries: int = 1000,
        taken: Iterable[frozenset[str]] = (),
        kept: Callable[[Recipe], None] | None = None,
        quality: bool = False,
        progress: Progress = silent,
    ) -> None:
        self.release, self.base, self.make_box, self.cache = release, base, make_box, cache
        self.seed, self.wanted, self.split, self.mutations = seed, wanted, split, mutations
        self.tries, self.taken, self.kept, self.progress = tries, set(taken), kept, progress
        self.sources = release.sources()
        self.operators = tuple(operators)
        self.queues = candidates(release, base, seed, self.operators)
        self.found: list[Recipe] = []
        self.quality = quality
        self.verified: dict[str, Verified] = {}
        self.gold: Gold = {}
        self.funnel = Funnel()
        self.used: Counter[Function] = Counter()
        self.tasks: Counter[str] = Counter()
        self.pending: list[tuple[Candidate, Answer]] = []
        self.last = 0

    async def run(self, concurrency: int = 2) -> list[Recipe]:
        """Find the tasks, in ``concurrency`` boxes at once.

        Raises:
            PackageRejectedError: the release as it came is not judged 1 each time.
            InfraError: a box failed.
        """
        await self._gold()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(self._work())
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        for _ in self.pending:
            self.funnel.drop(ALONE)
        self.pending.clear()
        return self.found

    async def _gold(self, again: int = GOLD_ROUNDS) -> None:
        """The release as it came must be judged 1: the same verdict for all of its tasks.

        Tests that the verifier sees fail, and the measuring runs did not, are left out.
        """
        green = self.base.green
        recipe = self._recipe(self.release.name, (), green[:1], "", None)
        built = self.release.built
        prepared = prepare_task(recipe.task(green), built, self.release.requires, self.cache)
        try:
            verdicts = await judged(prepared, self.make_box)
        except VerifierError as error:
            raise PackageRejectedError(f"{self.release.name}: cannot be judged: {error}") from error
        self.gold[tuple(green)] = verdicts
        if all(verdict.reward == 1.0 for verdict in verdicts):
            return None
        lost = {test for verdict in verdicts for test in failed(verdict)}
        if again and lost and lost < set(green):
            left = tuple(test for test in green if test not in lost)
            flaky = tuple(sorted({*self.base.flaky, *lost}))
            self.base = replace(self.base, green=left, flaky=flaky)
            self.queues = candidates(self.release, self.base, self.seed, self.operators)
            return await self._gold(again - 1)
        told = lost or {k: v for s in verdicts[0].scores.values() for k, v in s.evidence.items()}
        raise PackageRejectedError(
            f"{self.release.name}: unchanged it is not judged 1: {str(told)[:400]}"
        )

    async def _work(self) -> None:
        async with Screen(self.release.prepared, self.make_box, self.base.command) as screen:
            await screen.ask({}, self.release.built.test_paths(), only=[], write=True)
            while self.missing() > 0 and (candidate := self._next()) is not None:
                self.progress(
                    f"{self.release.name}: {candidate.mutation.operator}",
                    len(self.found),
                    self.wanted,
                )
                await self._consider(screen, candidate)

    def missing(self) -> int:
        """Tasks that are still wanted."""
        return self.wanted - len(self.found)

    def _next(self) -> Candidate | None:
        """The next candidate of the operator that has the fewest tasks yet."""
        if self.funnel.tried >= min(self.tries, self.last + PATIENCE):
            return None
        for name in sorted(self.queues, key=lambda n: (self.tasks[n], -len(self.queues[n]))):
            queue = self.queues[name]
            while queue:
                candidate = queue.pop()
                if self.used[candidate.function] < A_FUNCTION:
                    self.funnel.tried += 1
                    self.tasks[name] += 1
                    return candidate
        return None

    async def _consider(self, screen: Screen, candidate: Candidate) -> None:
        try:
            files = self._changed([candidate])
        except InputError:
            return self._leave(candidate, "the change does not parse")
        answer = await self._ask(screen, files, candidate.reached)
        reason = self._unfit(answer, candidate.reached)
        if reason:
            return self._leave(candidate, reason)
        if self.mutations == 1:
            return await self._make(screen, [candidate], answer)
        self.pending.append((candidate, answer))
        group = {c.function: c for c, _ in self.pending}
        if len(group) < self.mutations:
            return None
        for _ in self.pending[1:]:
            self.funnel.drop(JOINED)
        self.pending.clear()
        chosen = list(group.values())
        reached = {test: depth for c in chosen for test, depth in c.reached.items()}
        try:
            files = self._changed(chosen)
        except InputError:
            return self._leave(candidate, "the changes overlap")
        answer = await self._ask(screen, files, reached)
        reason = self._unfit(answer, reached)
        if reason:
            return self._leave(candidate, reason)
        return await self._make(screen, chosen, answer)

    def _leave(self, candidate: Candidate, reason: str, note: str = "") -> None:
        self.tasks[candidate.mutation.operator] -= 1
        self.funnel.drop(reason, note)

    def _changed(self, chosen: Sequence[Candidate]) -> dict[str, bytes]:
        files = {}
        for path in dict.fromkeys(c.mutation.path for c in chosen):
            mistakes = [
                (c.mutation.operator, c.mutation.place, c.mutation.seed)
                for c in chosen
                if c.mutation.path == path
            ]
            files[path] = mutate_many(self.sources[path], mistakes)
        return files

    async def _ask(
        self, screen: Screen, files: Mapping[str, bytes], reached: Mapping[str, int]
    ) -> Answer:
        tests = sorted({test.partition("::")[0] for test in reached})
        budget = 20.0 + 3 * self.base.seconds
        return await screen.ask(
            files,
            tests,
            only=list(reached),
            explain=True,
            timeout=TEST_SECONDS,
            budget=budget,
            most=MAX_SHOWN,
        )

    def _unfit(self, answer: Answer, reached: Mapping[str, int]) -> str | None:
        """Why a candidate is no task, as far as the screen tells."""
        if not answer.whole or "timeout" in answer.outcomes.values():
            return "its tests hang or die"
        lost = shown(answer, reached)
        if not lost:
            return "no test fails"
        if len(lost) > MAX_CASES or _functions(lost) > MAX_SHOWN:
            return "too many tests fail"
        if frozenset(lost) in self.taken:
            return "the same tests fail as in another task"
        return None

    async def _make(self, screen: Screen, chosen: Sequence[Candidate], answer: Answer) -> None:
        """Statement, then measured: the verdict on the mistake must be 0, by the same tests."""
        head = chosen[0]
        if any(self.used[c.function] >= A_FUNCTION for c in chosen):
            return self._leave(head, "the function has tasks enough")
        reached = {test: depth for c in chosen for test, depth in c.reached.items()}
        lost = shown(answer, reached)
        self.taken.add(frozenset(lost))
        for candidate in chosen:
            self.used[candidate.function] += 1
        reason, note = await self._measure(screen, chosen, answer, lost, reached)
        if reason is None:
            self.funnel.kept += 1
            self.last = self.funnel.tried
            return None
        self.taken.discard(frozenset(lost))
        for candidate in chosen:
            self.used[candidate.function] -= 1
        return self._leave(head, reason, note)

    async def _measure(
        self,
        screen: Screen,
        chosen: Sequence[Candidate],
        answer: Answer,
        lost: Sequence[str],
        reached: Mapping[str, int],
    ) -> tuple[str | None, str]:
        mutations = tuple(c.mutation for c in chosen)
        dumps = [m.model_dump() for m in mutations]
        name = f"{self.release.name}-{key_of(dumps[0] if len(dumps) == 1 else dumps)[:6]}"
        facts = {test: answer.facts[test] for test in lost if test in answer.facts}
        statement = describe(self.release.file.project, facts, int(key_of(name)[:8], 16))
        if statement is None:
            return "what the failing tests saw cannot be told", ""
        whole = await self._ask(screen, self._changed(chosen), dict.fromkeys(self.base.green, 0))
        if not whole.whole or "timeout" in whole.outcomes.values():
            return "its tests hang or die", name
        if set(shown(whole, self.base.green)) != set(lost):
            return "other tests fail when all are run", name
        depths = [reached[test] for test in lost if test in reached]
        recipe = self._recipe(name, mutations, lost, statement, min(depths, default=None))
        built = await asyncio.to_thread(build, recipe, self.cache)
        messages = {test: report(fact) for test, fact in facts.items()}
        findings = await asyncio.to_thread(check_statement, statement, built, lost, messages)
        findings = [f for f in findings if (f.check, f.what) not in GENERAL]
        if findings:
            return f"statement: {findings[0].check}", f"{name}: {findings[0]}"
        task = recipe.task(self.base.green)
        prepared = prepare_task(task, built, recipe.requires, self.cache)
        try:
            [verdict] = await judged(prepared, self.make_box, runs=1)
        except VerifierError as error:
            return "cannot be judged", f"{name}: {error}"
        if verdict.reward != 0.0:
            return "doing nothing is not judged 0", name
        outcomes = failed(verdict)
        if "timeout" in outcomes.values() or "crashed" in outcomes.values():
            return "its tests hang or die", name
        if set(outcomes) != set(lost):
            return "other tests fail when judged", f"{name}: {sorted(set(outcomes))[:5]}"
        seconds = round(verdict.evidence["seconds"]["total"], 2)
        recipe = recipe.model_copy(update={"seconds": seconds})
        row = None
        if self.quality:
            row = await verify_task(
                recipe,
                self.base.green,
                built,
                prepared,
                screen,
                self.make_box,
                digest=digest_of(recipe, self.base.green),
                gold=self.gold,
                noop=[verdict],
            )
            if row.problem is not None:
                return f"quality: {row.problem}", name
        if self.missing() <= 0:
            return "enough tasks by then", ""
        if row is not None:
            self.verified[name] = row
        self.found.append(recipe)
        if self.kept is not None:
            self.kept(recipe)
        return None, ""

    def _recipe(
        self,
        name: str,
        mutations: tuple[MutationSpec, ...],
        lost: Sequence[str],
        statement: str,
        distance: int | None,
    ) -> Recipe:
        return Recipe(
            id=name,
            kind="injected-bug",
            split=self.split,
            package=self.release.file.project,
            source=self.release.file,
            mutations=mutations,
            statement=statement,
            fail_to_pass=tuple(lost),
            green=self.release.name,
            requires=self.release.requires,
            command=self.base.command,
            artifacts=self.release.built.sources,
            changed=len({m.path for m in mutations}) or 1,
            seconds=self.base.seconds,
            distance=distance,
        )


def shown(answer: Answer, reached: Iterable[str]) -> list[str]:
    """Of the tests asked for, those that do not pass."""
    fine = ("passed", "skipped", "xfailed", "xpassed")
    return [test for test in reached if answer.outcomes.get(test, "missing") not in fine]


def report(fact: Mapping[str, Any]) -> str:
    """What a failure said, as pytest writes it."""
    raised = fact.get("raised") or {}
    text = f"{raised.get('type', '')}: {raised.get('message', '')}"
    return "\n".join(f"E   {line}" for line in text.splitlines())
