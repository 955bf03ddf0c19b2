"""Patches a task's grader is tried with: wrong ones, and good ones that look different.

Wrong: other mistakes at the place of the injected one, mistakes elsewhere in the mended functions,
the reference change with a part of it left out, and, where these do not suffice, mistakes in one
expression of it (`m2gym.tasksets.edits.slips`). Good: the reference change rewritten without a
change of behaviour (`m2gym.tasksets.edits.rewrite`). A patch is the whole text of the files it
touches, over the tree *with* the reference change.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType

from m2gym.core.errors import InputError
from m2gym.core.syntax import parse_python
from m2gym.tasksets.edits.mutate import functions, mutate_many, places
from m2gym.tasksets.edits.operators import OPERATORS
from m2gym.tasksets.edits.rewrite import KINDS, rewrite
from m2gym.tasksets.edits.slips import slips
from m2gym.tasksets.swe_repo.recipe import Recipe
from m2gym.tasksets.swe_repo.repository import Repository

WRONG, WRONG_AT_MOST = 3, 9
"""Wrong patches a task is tried with: first, and in all where many of the first pass; the
project's choice."""
GOOD = 1
"""Good patches a task is tried with: the first kinds that have a place; the project's choice."""
LEFT_OUT = "part-left-out"
"""The kind of a version-diff's reference change without a piece. References are narrowed to what
their tests need (`m2gym.tasksets.version_diffs.narrow`), so each piece must be missed."""
_SEEDS = 12


@dataclass(frozen=True)
class Patch:
    """Files (`None` removes one) over the mended tree, and what kind of patch it is."""

    label: str
    files: Mapping[str, bytes | None]


@dataclass(frozen=True)
class Change:
    """The reference change of a task: path → text before and after (`None`: no such file)."""

    before: Mapping[str, bytes | None]
    after: Mapping[str, bytes | None]

    @classmethod
    def of(cls, built: Repository) -> Change:
        """The change between a built task's tree and its reference."""
        after = dict(built.reference().files)
        before = {
            path: (built.root / path).read_bytes() if (built.root / path).is_file() else None
            for path in after
        }
        return cls(before, after)

    def lines(self, path: str) -> set[int]:
        """Numbers of the lines of the mended file that the change adds or stands next to."""
        old, new = self.before[path], self.after[path]
        if new is None:
            return set()
        pair = ((old or b"").splitlines(), new.splitlines())
        found: set[int] = set()
        for tag, _, _, start, end in difflib.SequenceMatcher(None, *pair, False).get_opcodes():
            if tag != "equal":
                found |= set(range(start + 1, max(end, start + 1) + 1))
        return found


def good_patches(change: Change, most: int = GOOD) -> list[Patch]:
    """The reference change rewritten, in at most ``most`` of the ways that have a place in it."""
    found: list[Patch] = []
    for name in KINDS:
        if len(found) == most:
            break
        files: dict[str, bytes | None] = {}
        for path, new in change.after.items():
            if new is None or not path.endswith(".py"):
                continue
            try:
                text = rewrite(new, change.lines(path), name)
            except (SyntaxError, InputError, UnicodeDecodeError, ValueError, RecursionError):
                continue
            if text is not None and text != new:
                files[path] = text
        if files:
            found.append(Patch(name, files))
    return found


def wrong_patches(recipe: Recipe, change: Change, seed: int = 0, most: int = WRONG) -> list[Patch]:
    """Patches that do not mend the task, the kinds taken in turn, at most ``most``.

    Of a release's step one piece at most is left out. Mistakes in one expression come last.
    """
    rng = random.Random(f"{recipe.id}:{seed}")
    kinds = [
        list(_same_place(recipe, change)),
        list(_partial(recipe, change)),
        list(_nearby(change, rng)),
    ]
    for listed in kinds:
        rng.shuffle(listed)
    if not recipe.mutations:
        del kinds[1][1:]
    last = list(_slips(change))
    random.Random(f"{recipe.id}:{seed}:slips").shuffle(last)
    chosen: list[Patch] = []
    seen: list[Mapping[str, bytes | None]] = [_difference(change.before, change.after), {}]
    while (any(kinds) or last) and len(chosen) < most:
        for listed in kinds if any(kinds) else [last]:
            if listed and len(chosen) < most:
                patch = listed.pop()
                files = _difference(patch.files, change.after)
                if files in seen or _same_code(files, change.after):
                    continue
                seen.append(files)
                chosen.append(Patch(patch.label, files))
    return chosen


def _difference(
    files: Mapping[str, bytes | None], after: Mapping[str, bytes | None]
) -> dict[str, bytes | None]:
    return {path: data for path, data in files.items() if data != after.get(path, b"")}


def _same_place(recipe: Recipe, change: Change) -> Iterator[Patch]:
    """Other mistakes where the injected one is, the others of the task mended."""
    for spec in recipe.mutations:
        pristine = change.after[spec.path]
        assert pristine is not None
        for seed in range(_SEEDS):
            try:
                text = mutate_many(pristine, [(spec.operator, spec.place, seed)])
            except InputError:
                continue
            if len(recipe.mutations) > 1 or text != change.before[spec.path]:
                yield Patch("same-place", {spec.path: text})


def _partial(recipe: Recipe, change: Change) -> Iterator[Patch]:
    """The reference change without one of its files, hunks or (mended) mistakes."""
    label = "partial" if recipe.mutations else LEFT_OUT
    if len(change.after) > 1:
        for path in change.after:
            if path.endswith(".py"):
                yield Patch(label, {path: change.before[path]})
    for path, new in change.after.items():
        old = change.before[path]
        if new is None or old is None or not path.endswith(".py"):
            continue
        a, b = old.splitlines(keepends=True), new.splitlines(keepends=True)
        blocks = difflib.SequenceMatcher(None, a, b, False).get_opcodes()
        hunks = [block for block in blocks if block[0] != "equal"]
        for _, i, j, k, m in hunks if len(hunks) > 1 else ():
            yield Patch(label, {path: b"".join([*b[:k], *a[i:j], *b[m:]])})


def _nearby(change: Change, rng: random.Random) -> Iterator[Patch]:
    """Mistakes in the functions that the reference change touches."""
    for path, new in change.after.items():
        if new is None or not path.endswith(".py"):
            continue
        spans = list(_touched(new, change.lines(path)))
        spots = [
            (name, number)
            for name in OPERATORS
            for number, place in enumerate(places(new, name))
            if any(start <= place.start < end for start, end in spans)
        ]
        for name, number in rng.sample(spots, min(len(spots), 2 * WRONG)):
            try:
                text = mutate_many(new, [(name, number, rng.randrange(_SEEDS))])
            except InputError:
                continue
            yield Patch("nearby", {path: text})


def _slips(change: Change) -> Iterator[Patch]:
    """Mistakes in one expression of the reference change."""
    for path, new in change.after.items():
        if new is None or not path.endswith(".py"):
            continue
        try:
            texts = slips(new, change.lines(path))
        except InputError:
            continue
        for text in texts:
            yield Patch("slip", {path: text})


def _touched(source: bytes, lines: Iterable[int]) -> Iterator[tuple[int, int]]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    offsets = [starts[line - 1] for line in lines if line <= len(starts)]
    for start, end, first in functions(source):
        begin = starts[first - 1]
        if any(begin <= offset < end for offset in offsets):
            yield start, end


def _same_code(files: Mapping[str, bytes | None], after: Mapping[str, bytes | None]) -> bool:
    """Whether a patch compiles to the very code of the mended tree, or not at all."""
    if not files:
        return True
    for path, data in files.items():
        other = after.get(path)
        if data is None or other is None or not path.endswith(".py"):
            return False
        try:
            if _dump(data) != _dump(other):
                return False
        except (SyntaxError, ValueError):
            return False
    return True


def _dump(data: bytes) -> list[object]:
    code = compile(parse_python(data), "<patch>", "exec")
    return list(_parts(code))


def _parts(code: CodeType) -> Iterator[object]:
    yield code.co_code
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)
        else:
            yield repr(constant)
