"""Tasks from one release: a mistake is injected, and the release's own tests show it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

from m2gym.core.errors import VerifierError
from m2gym.core.task import Split
from m2gym.tasksets.cache import Cache, Progress, key_of, silent
from m2gym.tasksets.fetch import RegistryFile, fetch
from m2gym.tasksets.measure import MakeBox, Measured, measure
from m2gym.tasksets.mutate import OPERATORS, places
from m2gym.tasksets.recipe import MutationSpec, Recipe
from m2gym.tasksets.repository import build_repository, prepare_task
from m2gym.tasksets.sdist import PackageRejectedError, files_of, layout, unpack
from m2gym.tasksets.version_diff import bare_task, test_paths, verify

MIN_SHOWN, MAX_SHOWN = 1, 12
"""A bug is kept when this many tests show it; the project's choice."""


def candidates(file: RegistryFile, cache: Cache, seed: int) -> list[MutationSpec]:
    """Every place of every operator in a release, operators taken in turn, shuffled by ``seed``.

    Raises:
        DownloadError, PackageRejectedError: the archive is not to be had, or no good.
    """
    archive = fetch([file], cache)[file.filename]
    by_operator: dict[str, list[MutationSpec]] = {name: [] for name in OPERATORS}
    with cache.scratch() as folder:
        unpack(archive, file.filename, folder)
        where = layout(folder, file.project)
        for path in files_of(folder):
            if not path.endswith(".py") or not where.is_source(path):
                continue
            source = (folder / path).read_bytes()
            for name, specs in by_operator.items():
                for place in range(len(places(source, name))):
                    specs.append(MutationSpec(operator=name, path=path, place=place, seed=seed))
    rng = random.Random(seed)
    for specs in by_operator.values():
        rng.shuffle(specs)
    turns = max(map(len, by_operator.values()), default=0)
    return [s[turn] for turn in range(turns) for s in by_operator.values() if turn < len(s)]


async def find_injected(
    file: RegistryFile,
    *,
    seed: int,
    split: Split,
    make_box: MakeBox,
    requires: Sequence[str] = (),
    command: Sequence[str] = (),
    tries: int = 40,
    cache: Cache | None = None,
    progress: Progress = silent,
) -> AsyncIterator[tuple[Recipe, Measured]]:
    """Measured and verified bugs of a release, with an empty statement still to be written.

    A candidate is run once; only one that some, but not too many, tests show is measured.

    Raises:
        DownloadError, InfraError: a file was not to be had, a box failed.
        PackageRejectedError: the release has no tests that pass.
    """
    cache = cache or Cache()
    baseline: Measured | None = None
    for number, mutation in enumerate(candidates(file, cache, seed)[:tries]):
        progress(f"{file.project}: {mutation.operator} in {mutation.path}", number, tries)
        built = build_repository(file, None, (mutation,), (), cache, progress)
        name = f"{file.project}-{file.version}-{key_of(mutation.model_dump())[:6]}"
        prepared = prepare_task(
            bare_task(name, file.project, built), built, requires, cache, progress
        )
        tests = test_paths(built)
        if baseline is None:
            baseline = await measure(prepared, tests, command, make_box)
            if not baseline.green:
                raise PackageRejectedError(f"{file.filename}: no test passes")
        try:
            once = await measure(prepared, tests, command, make_box, runs=1, green=baseline.green)
            if not MIN_SHOWN <= len(once.fail_to_pass) <= MAX_SHOWN:
                continue
            measured = await measure(prepared, tests, command, make_box, green=baseline.green)
        except VerifierError:
            continue
        recipe = Recipe(
            id=name,
            kind="injected-bug",
            split=split,
            package=file.project,
            source=file,
            mutations=(mutation,),
            statement="",
            fail_to_pass=measured.fail_to_pass,
            not_kept=measured.not_kept,
            green=f"{file.project}-{file.version}",
            requires=tuple(requires),
            command=tuple(command),
            artifacts=built.sources,
            changed=1,
            seconds=measured.seconds,
        )
        built = build_repository(file, None, (mutation,), recipe.shown_by, cache, progress)
        try:
            await verify(recipe, baseline.green, built, cache, make_box)
        except PackageRejectedError:
            continue
        yield recipe, measured
