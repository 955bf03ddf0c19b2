"""Tasks from two releases: the older one's source under the newer one's tests."""

from __future__ import annotations

from collections.abc import Sequence

from m2gym.core.task import Limits, Split, Task
from m2gym.tasksets.cache import Cache, Progress, silent
from m2gym.tasksets.fetch import RegistryFile
from m2gym.tasksets.measure import MakeBox, Measured, measure, verdicts
from m2gym.tasksets.recipe import GRADE_SECONDS, Recipe
from m2gym.tasksets.repository import Repository, build_repository, prepare_task
from m2gym.tasksets.sdist import PackageRejectedError, files_of

MAX_FAIL_TO_PASS = 40
"""More failing tests than this are a new feature or a broken set-up; the project's choice."""


async def make_version_diff(
    old: RegistryFile,
    new: RegistryFile,
    *,
    statement: str,
    split: Split,
    make_box: MakeBox,
    requires: Sequence[str] = (),
    command: Sequence[str] = (),
    cache: Cache | None = None,
    progress: Progress = silent,
) -> tuple[Recipe, Measured]:
    """A measured and verified recipe; its list of green tests is in what was measured.

    Raises:
        PackageRejectedError: no task comes of this pair; the message is the reason.
        DownloadError, InfraError: a file was not to be had, a box failed.
    """
    cache = cache or Cache()
    built = build_repository(old, new, (), (), cache, progress)
    name = f"{new.project}-{new.version}"
    bare = bare_task(name, new.project, built)
    prepared = prepare_task(bare, built, requires, cache, progress)
    measured = await measure(prepared, test_paths(built), command, make_box)
    if not measured.fail_to_pass:
        raise PackageRejectedError(f"{name}: no test of the new release fails on the old source")
    if len(measured.fail_to_pass) > MAX_FAIL_TO_PASS:
        raise PackageRejectedError(
            f"{name}: {len(measured.fail_to_pass)} tests fail on the old source"
        )
    recipe = Recipe(
        id=name,
        kind="version-diff",
        split=split,
        package=new.project,
        source=old,
        fixed=new,
        statement=statement,
        fail_to_pass=measured.fail_to_pass,
        not_kept=measured.not_kept,
        green=name,
        requires=tuple(requires),
        command=tuple(command),
        artifacts=built.sources,
        changed=sum(path.endswith(".py") for path in files_of(built.fixed)) or 1,
        seconds=measured.seconds,
    )
    await verify(recipe, measured.green, built, cache, make_box)
    return recipe, measured


async def verify(
    recipe: Recipe,
    green: tuple[str, ...],
    built: Repository,
    cache: Cache,
    make_box: MakeBox,
) -> None:
    """Gold must score 1 and no change 0, each in every run.

    Raises:
        PackageRejectedError: they do not.
    """
    task = recipe.task(green)
    prepared = prepare_task(task, built, recipe.requires, cache)
    gold = await verdicts(prepared, make_box, gold=True)
    noop = await verdicts(prepared, make_box, gold=False)
    if set(gold) != {1.0} or set(noop) != {0.0}:
        raise PackageRejectedError(f"{recipe.id}: the verdicts are gold {gold}, no-op {noop}")


def bare_task(name: str, package: str, built: Repository) -> Task:
    """A task without a reward yet, to prepare boxes for measuring."""
    return Task(
        id=name,
        instruction="",
        artifacts=built.sources,
        limits=Limits(grade_seconds=GRADE_SECONDS),
        metadata={"package": package},
    )


def test_paths(built: Repository) -> list[str]:
    """The files and folders of hidden tests."""
    return [path for path in built.tests if (built.hidden / path).exists()]
