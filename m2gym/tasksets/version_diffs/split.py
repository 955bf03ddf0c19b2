"""Take the step between two releases apart by the tests that belong together.

From the newer release one changed file at a time is reverted, and a file whose reversion several
tests notice, function by function. Tests that the same piece fails are one part; the part's
reference change is the pieces that its tests need, checked on the older release::

    B − piece 1 ─► t1, t2 fail ┐                  part 1: t1, t2, t3   reference: pieces 1, 2
    B − piece 2 ─► t2, t3 fail ┘ share t2   ──►
    B − piece 3 ─► t4 fails                       part 2: t4           reference: piece 3
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from m2gym.tasksets.edits.changes import by_function, hunks, merged, same_code
from m2gym.tasksets.outcomes.screen import Answer, Files, Screen
from m2gym.tasksets.registry.sdist import files_of
from m2gym.tasksets.swe_repo.recipe import ChangeSpec
from m2gym.tasksets.swe_repo.repository import Repository

MAX_PIECES = 60
"""A step of more changed files, or a file of more changed functions, is not taken apart; the
project's choice."""
KEPT_SAMPLE = 150
"""So many pass-to-pass tests of the failing tests' files at most are watched too; the project's
choice."""
SHARED = 0.5
"""A piece without which more than this share of the watched pass-to-pass tests is lost is common
ground of all parts, not one's own; the project's choice."""
TEST_SECONDS = 10.0
_FINE = ("passed", "skipped", "xfailed", "xpassed")


@dataclass(frozen=True)
class Part:
    """Failing tests that belong together and, narrowest first, changes that may mend them.

    An empty tuple of pieces is the whole step.
    """

    fail_to_pass: tuple[str, ...]
    references: tuple[tuple[ChangeSpec, ...], ...]


@dataclass
class _Piece:
    spec: ChangeSpec
    lost: frozenset[str] = frozenset()
    shared: bool = False


@dataclass
class Splitter:
    """Takes a built step apart; ``screen`` is over its newer side."""

    built: Repository
    screen: Screen
    fail_to_pass: Sequence[str]
    kept: Sequence[str]
    watched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        files = {test.partition("::")[0] for test in self.fail_to_pass}
        beside = [test for test in self.kept if test.partition("::")[0] in files]
        step = max(1, len(beside) // KEPT_SAMPLE)
        self.watched = [*self.fail_to_pass, *beside[::step]]
        self.tests = sorted(files)

    async def parts(self) -> list[Part]:
        """The parts, in the order of their first failing test."""
        paths = self.changed()
        if len(paths) > MAX_PIECES:
            return [Part(tuple(self.fail_to_pass), ((),))]
        pieces: list[_Piece] = []
        for path in paths:
            piece = await self._without(ChangeSpec(path=path))
            finer = await self._finer(piece)
            pieces += finer or [piece]
        pieces = [piece for piece in pieces if piece.lost or piece.shared]
        groups = grouped(self.fail_to_pass, [p.lost for p in pieces if not p.shared])
        return [await self._part(group, groups, pieces) for group in groups]

    def changed(self) -> list[str]:
        """Files of the step whose change may matter: no mere comment, docstring or layout."""
        found = []
        for path in (*files_of(self.built.fixed), *self.built.deleted):
            old, new = self.sides(path)
            if not (path.endswith(".py") and old and new and same_code(old, new)):
                found.append(path)
        return sorted(found)

    def sides(self, path: str) -> tuple[bytes | None, bytes | None]:
        """A file's bytes in the older and the newer release; `None` where it is absent."""
        old, new = self.built.root / path, self.built.fixed / path
        return (
            old.read_bytes() if old.exists() else None,
            new.read_bytes() if new.exists() else None,
        )

    def with_only(self, taken: Collection[ChangeSpec]) -> Files:
        """What to lay over the newer release so that it is the older one with these pieces."""
        files: dict[str, bytes | None] = {}
        whole = {piece.path for piece in taken if not piece.hunks}
        for path in (*files_of(self.built.fixed), *self.built.deleted):
            if path in whole:
                continue
            old, new = self.sides(path)
            numbers = [n for piece in taken if piece.path == path for n in piece.hunks]
            files[path] = merged(old, new, numbers) if numbers and old and new else old
        return files

    async def _ask(self, files: Files) -> Answer:
        budget = 30.0 + TEST_SECONDS * 6
        return await self.screen.ask(
            files, self.tests, only=self.watched, timeout=TEST_SECONDS, budget=budget
        )

    async def _without(self, spec: ChangeSpec) -> _Piece:
        """What is lost when one piece of the step is left out."""
        old, new = self.sides(spec.path)
        left: bytes | None = old
        if spec.hunks and old is not None and new is not None:
            rest = set(range(len(hunks(old, new)))) - set(spec.hunks)
            left = merged(old, new, rest)
        answer = await self._ask({spec.path: left})
        failing = {t for t in self.watched if answer.outcomes.get(t, "missing") not in _FINE}
        kept = len(self.watched) - len(self.fail_to_pass)
        lost = len(failing - set(self.fail_to_pass))
        shared = not answer.whole or bool(answer.errors) or lost > SHARED * kept
        return _Piece(spec, frozenset(failing & set(self.fail_to_pass)), shared)

    async def _finer(self, piece: _Piece) -> list[_Piece]:
        """The functions of a file that several tests notice, where they tell the tests apart."""
        path = piece.spec.path
        old, new = self.sides(path)
        functions = {test.partition("[")[0] for test in piece.lost}
        if len(functions) < 2 or old is None or new is None or not path.endswith(".py"):
            return []
        groups = by_function(old, new)
        if not 2 <= len(groups) <= MAX_PIECES:
            return []
        finer = [await self._without(ChangeSpec(path=path, hunks=group)) for group in groups]
        kept = [p for p in finer if p.lost or p.shared]
        seen = frozenset[str]().union(*(p.lost for p in kept))
        rest = piece.lost - seen
        return [*kept, _Piece(piece.spec, rest)] if rest else kept

    async def _part(
        self, group: Sequence[str], groups: Sequence[Sequence[str]], pieces: Sequence[_Piece]
    ) -> Part:
        wanted = set(group)
        own = [p for p in pieces if not p.shared and p.lost & wanted]
        touched = {p.spec.path for p in own}
        common = [p for p in pieces if p.shared]
        others = [p for p in pieces if not p.shared and not p.lost & wanted and p.lost]
        near = [p for p in common if p.spec.path in touched or not own]
        options = [
            joined(p.spec for p in own),
            joined(p.spec for p in (*own, *near)),
            joined(p.spec for p in (*own, *common)),
        ]
        if len(groups) > 1:
            options.append(self._all_but(others))
        good = []
        for option in dict.fromkeys(filter(None, options)):
            answer = await self._ask(self.with_only(option))
            lost = {t for t in self.watched if answer.outcomes.get(t, "missing") not in _FINE}
            if answer.whole and not lost & wanted and not lost - set(self.fail_to_pass):
                good.append(option)
                break
        return Part(tuple(group), (*good, ()))

    def _all_but(self, others: Iterable[_Piece]) -> tuple[ChangeSpec, ...]:
        """The whole step without the pieces of other parts."""
        left = list(others)
        whole = {p.spec.path for p in left if not p.spec.hunks}
        specs = []
        for path in (*files_of(self.built.fixed), *self.built.deleted):
            out = {n for p in left if p.spec.path == path for n in p.spec.hunks}
            old, new = self.sides(path)
            if path in whole:
                continue
            if out and old is not None and new is not None:
                kept = tuple(n for n in range(len(hunks(old, new))) if n not in out)
                if kept:
                    specs.append(ChangeSpec(path=path, hunks=kept))
            else:
                specs.append(ChangeSpec(path=path))
        return tuple(specs)


def joined(specs: Iterable[ChangeSpec]) -> tuple[ChangeSpec, ...]:
    """One piece a file; a whole file swallows its hunks."""
    found: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        before = found.get(spec.path)
        if before is None:
            found[spec.path] = spec.hunks
        elif before and spec.hunks:
            found[spec.path] = tuple(sorted({*before, *spec.hunks}))
        else:
            found[spec.path] = ()
    return tuple(ChangeSpec(path=path, hunks=found[path]) for path in sorted(found))


def grouped(tests: Sequence[str], together: Iterable[Collection[str]]) -> list[list[str]]:
    """Tests in groups: those of one collection belong together, and so do those of none.

    >>> grouped(["a", "b", "c", "d"], [{"a", "c"}, {"c"}, {"d"}])
    [['a', 'c'], ['b'], ['d']]
    """
    parent = {test: test for test in tests}

    def root(test: str) -> str:
        while parent[test] != test:
            test = parent[test]
        return test

    noticed: set[str] = set()
    for collection in together:
        members = [test for test in tests if test in collection]
        noticed |= set(members)
        for test in members[1:]:
            parent[root(test)] = root(members[0])
    alone = [test for test in tests if test not in noticed]
    for test in alone[1:]:
        parent[root(test)] = root(alone[0])
    groups: dict[str, list[str]] = {}
    for test in tests:
        groups.setdefault(root(test), []).append(test)
    return sorted(groups.values(), key=lambda group: tests.index(group[0]))
