"""A taskset over recipes: facts now, files when a task is first prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from m2gym.core.errors import UnknownIdError
from m2gym.core.task import PreparedTask, Split, Task
from m2gym.tasksets.registry.cache import Cache, Progress, silent
from m2gym.tasksets.registry.fetch import RegistryFile, fetch
from m2gym.tasksets.registry.pinned import required_files
from m2gym.tasksets.swe_repo.recipe import Recipe
from m2gym.tasksets.swe_repo.repository import Repository, build_repository, prepare_task


class RecipeTaskset:
    """Tasks made from recipes.

    Args:
        name: the taskset's name.
        recipes: id → recipe.
        green: the list of green tests of a name, as recipes name it.
        cache: where archives and built trees are kept.
        progress: is told about downloads.
    """

    def __init__(
        self,
        name: str,
        recipes: Mapping[str, Recipe],
        green: Callable[[str], tuple[str, ...]],
        *,
        cache: Cache | str | Path | None = None,
        progress: Progress = silent,
    ) -> None:
        self.name = name
        self.recipes = recipes
        self.green = green
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.progress = progress
        self._tasks: dict[str, Task] = {}

    def ids(self, split: Split) -> Sequence[str]:
        """Ids of one split, in the order of the recipes."""
        return [name for name, recipe in self.recipes.items() if recipe.split == split]

    def task(self, task_id: str) -> Task:
        """The task; needs no network.

        Raises:
            UnknownIdError: there is no such task; the message names the nearest.
        """
        if task_id not in self._tasks:
            recipe = self.recipe(task_id)
            self._tasks[task_id] = recipe.task(self.green(recipe.green))
        return self._tasks[task_id]

    def recipe(self, task_id: str) -> Recipe:
        """The facts a task is made from.

        Raises:
            UnknownIdError: there is no such task; the message names the nearest.
        """
        if task_id not in self.recipes:
            raise UnknownIdError(f"task of {self.name}", task_id, self.recipes)
        return self.recipes[task_id]

    def prefetch(self, task_ids: Iterable[str]) -> None:
        """Fetch what many tasks need with one start of pip; `prepare` would do it one by one.

        Raises:
            DownloadError: a file is not to be had, or came with another hash.
        """
        wanted: dict[str, RegistryFile] = {}
        for recipe in map(self.recipe, task_ids):
            needed = required_files(recipe.requires)
            releases = (file for file in (recipe.source, recipe.fixed) if file is not None)
            wanted |= {file.sha256: file for file in (*needed, *releases)}
        fetch(list(wanted.values()), self.cache, self.progress)

    def prepare(self, task: Task) -> PreparedTask:
        """The task's files at hand: fetched and built the first time, then milliseconds.

        Raises:
            DownloadError: an archive is not to be had, or came with another hash.
            InfraError: the cache cannot be written, or was damaged.
        """
        recipe = self.recipe(task.id)
        built = build(recipe, self.cache, self.progress)
        return prepare_task(task, built, recipe.requires, self.cache, self.progress)


def build(recipe: Recipe, cache: Cache, progress: Progress = silent) -> Repository:
    """A recipe's files."""
    unseen = recipe.shown_by if recipe.mutations else ()
    return build_repository(
        recipe.source, recipe.fixed, recipe.mutations, unseen, cache, progress, recipe.part
    )
