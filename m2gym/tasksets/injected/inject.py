"""``m2gym.tasksets.inject``: injected-bug tasks from any package of the registry, in one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from m2gym.core.background import run_sync
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import Split, WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.edits.operators import OPERATORS
from m2gym.tasksets.injected.finder import Finder, Funnel
from m2gym.tasksets.quality.grader import Verified
from m2gym.tasksets.registry.cache import Cache, Progress, silent
from m2gym.tasksets.registry.fetch import RegistryFile
from m2gym.tasksets.swe_repo.recipe import Recipe
from m2gym.tasksets.swe_repo.recipe_taskset import RecipeTaskset
from m2gym.tasksets.swe_repo.release import baseline, open_release
from m2gym.tasksets.swe_repo.splits import split_of
from m2gym.workspaces import make_workspace

CONCURRENCY = 2


class Injected(RecipeTaskset):
    """The tasks that came of a release; ``dropped`` says why other candidates did not become one.

    ``seconds`` is what the search took, the release's own runs included.
    """

    def __init__(
        self,
        name: str,
        recipes: Mapping[str, Recipe],
        green: tuple[str, ...],
        funnel: Funnel,
        seconds: float,
        cache: Cache,
        verified: Mapping[str, Verified],
    ) -> None:
        super().__init__(name, recipes, lambda _: green, cache=cache)
        self.funnel = funnel
        self.verified = verified
        self.seconds = seconds

    @property
    def dropped(self) -> dict[str, int]:
        """Reason → number of candidates."""
        return dict(self.funnel.dropped.most_common())

    def __repr__(self) -> str:
        why = ", ".join(f"{count} × {reason}" for reason, count in self.dropped.items())
        return (
            f"<{self.name}: {len(self.recipes)} tasks of {self.funnel.tried} candidates in "
            f"{self.seconds:.1f} s; dropped: {why or 'none'}>"
        )


async def inject_async(
    package: str,
    version: str | None = None,
    *,
    seed: int = 0,
    n: int = 5,
    mutations: int = 1,
    operators: Sequence[str] | None = None,
    split: Split | None = None,
    tries: int | None = None,
    requires: Sequence[str | RegistryFile] | None = None,
    command: Sequence[str] | None = None,
    portable: bool = False,
    quality: bool = False,
    concurrency: int = CONCURRENCY,
    workspace: str = "auto",
    cache: Cache | str | Path | None = None,
    progress: Progress = silent,
) -> Injected:
    """Tasks from a release's own tests: mistakes are injected, measured, verified and described.

    The release is fetched, laid out, and what its tests import resolved and pinned; nothing of it
    runs outside a box. Three runs agree on a task's failing tests, one of them the verifier's,
    which judges doing nothing 0; the release as it came was judged 1 three times.

    Args:
        package: the project's name in the registry.
        version: the release (default: the newest).
        seed: chooses places and mistakes; the same seed tries the same ones in the same order.
        n: tasks wanted; fewer come when the candidates run out.
        mutations: mistakes a task has.
        operators: the kinds of mistakes that are tried (default: all of
            `m2gym.tasksets.edits.operators.OPERATORS`).
        split: of all the tasks (default: the package's in the project's table, else ``train``).
        tries: candidates looked at, at most (default: 40 a task wanted).
        requires: what the tests need, as pinned names or files (default: found and resolved).
        command: extra pytest arguments (default: found).
        portable: pin only files that any platform can use.
        quality: also try each grader with wrong and good patches, and drop unfit tasks
            (`m2gym.tasksets.quality.grader`); what they show is in the result's ``verified``.
        concurrency: boxes at once.
        workspace: the kind of boxes.
        cache: where files are kept (default: the user's cache).
        progress: is told what goes on.

    Raises:
        DownloadError: a file is not to be had.
        PackageRejectedError: no task can come of the release; the message is the reason.
        InfraError: a box failed.
    """
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    if n < 1 or mutations < 1 or concurrency < 1:
        raise InputError(
            f"n, mutations and concurrency are at least 1, got {n}, {mutations} and {concurrency}"
        )
    for name in operators or ():
        if name not in OPERATORS:
            raise UnknownIdError("mutation operator", name, OPERATORS)
    started = time.monotonic()
    store = cache if isinstance(cache, Cache) else Cache(cache)

    def make_box(spec: WorkspaceSpec) -> Workspace:
        return make_workspace(spec, workspace)

    release = await asyncio.to_thread(
        open_release,
        package,
        version,
        store,
        requires=requires,
        portable=portable,
        progress=progress,
    )
    progress(f"{release.name}: running its tests", 0, n)
    base = await baseline(release, make_box, command)
    finder = Finder(
        release,
        base,
        make_box,
        store,
        seed=seed,
        wanted=n,
        split=split or split_of(release.file.project),
        mutations=mutations,
        operators=OPERATORS if operators is None else operators,
        tries=tries if tries is not None else 40 * n,
        quality=quality,
        progress=progress,
    )
    found = await finder.run(concurrency)
    progress(f"{release.name}: {len(found)} tasks", n, n)
    recipes = {recipe.id: recipe for recipe in found[:n]}
    verified = {name: row for name, row in finder.verified.items() if name in recipes}
    seconds = time.monotonic() - started
    return Injected(
        f"injected-{release.name}",
        recipes,
        finder.base.green,
        finder.funnel,
        seconds,
        store,
        verified,
    )


def inject(
    package: str,
    version: str | None = None,
    *,
    seed: int = 0,
    n: int = 5,
    mutations: int = 1,
    operators: Sequence[str] | None = None,
    split: Split | None = None,
    tries: int | None = None,
    requires: Sequence[str | RegistryFile] | None = None,
    command: Sequence[str] | None = None,
    portable: bool = False,
    quality: bool = False,
    concurrency: int = CONCURRENCY,
    workspace: str = "auto",
    cache: Cache | str | Path | None = None,
    progress: Progress = silent,
) -> Injected:
    """`inject_async`, waited for; works inside a notebook's running loop."""
    return run_sync(
        inject_async(
            package,
            version,
            seed=seed,
            n=n,
            mutations=mutations,
            operators=operators,
            split=split,
            tries=tries,
            requires=requires,
            command=command,
            portable=portable,
            quality=quality,
            concurrency=concurrency,
            workspace=workspace,
            cache=cache,
            progress=progress,
        )
    )
