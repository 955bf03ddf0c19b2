"""Narrow a version-diff's reference change to what its tests see.

A step between two releases holds more than a fix: a version number, an unused import, a mend that
no test asks for. A grader cannot miss what no test sees, and a statement does not ask for it, so it
is no part of the reference. What is left is minimal: without any one piece some test fails.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from m2gym.tasksets.edits.changes import hunks
from m2gym.tasksets.registry.sdist import files_of
from m2gym.tasksets.swe_repo.recipe import ChangeSpec
from m2gym.tasksets.version_diffs.split import Part, Splitter

MAX_UNITS = 40
"""Where more files, or more hunks of the files left, would have to be tried, none is; the project's
choice."""

Unit = tuple[str, int | None]
"""A hunk of a file, or (`None`) a file that comes or goes as a whole."""


async def narrowed(
    splitter: Splitter, part: Part, kept: Sequence[str], budget: float = 120.0
) -> Part:
    """The part with a minimal reference before its others, where there is a narrower one.

    Args:
        splitter: its screen is over the newer release.
        part: its first reference is narrowed.
        kept: tests that must go on passing.
        budget: seconds of one run of the tests.

    Raises:
        InfraError: a box failed.
    """
    units = _units(splitter, part.references[0])
    left = units
    files = [
        [unit for unit in units if unit[0] == path]
        for path in dict.fromkeys(path for path, _ in units)
    ]
    for groups in (files, [[unit] for unit in units]):
        if sum(any(unit in left for unit in group) for group in groups) <= MAX_UNITS:
            left = await _without(splitter, part, kept, budget, left, groups)
    if len(left) == len(units):
        return part
    return replace(part, references=(_specs(splitter, left), *part.references))


async def _without(
    splitter: Splitter,
    part: Part,
    kept: Sequence[str],
    budget: float,
    left: list[Unit],
    groups: Sequence[Sequence[Unit]],
) -> list[Unit]:
    """What is left when each group that no test misses is gone, until none can go."""
    again = True
    while again:
        again = False
        for group in groups:
            fewer = [unit for unit in left if unit not in group]
            if not fewer or len(fewer) == len(left):
                continue
            files = splitter.with_only(_specs(splitter, fewer))
            if await splitter.screen.passes(files, part.fail_to_pass, kept, budget):
                left, again = fewer, True
    return left


def _units(splitter: Splitter, pieces: Collection[ChangeSpec]) -> list[Unit]:
    whole = [ChangeSpec(path=p) for p in (*files_of(splitter.built.fixed), *splitter.built.deleted)]
    found: list[Unit] = []
    for piece in sorted(pieces or whole, key=lambda piece: piece.path):
        old, new = splitter.sides(piece.path)
        if old is None or new is None:
            found.append((piece.path, None))
        else:
            found += [(piece.path, n) for n in piece.hunks or range(len(hunks(old, new)))]
    return found


def _specs(splitter: Splitter, units: Collection[Unit]) -> tuple[ChangeSpec, ...]:
    """Units as pieces: one a file, the whole file where all of its hunks are there."""
    found = []
    for path in sorted({path for path, _ in units}):
        old, new = splitter.sides(path)
        taken = tuple(sorted(n for p, n in units if p == path and n is not None))
        every = old is None or new is None or len(taken) == len(hunks(old, new))
        found.append(ChangeSpec(path=path, hunks=() if every else taken))
    return tuple(found)
