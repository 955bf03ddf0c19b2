"""The taskset ``swe-repo``: real repositories from the package registry, measured."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from m2gym.tasksets.registry.cache import Cache, Progress, silent
from m2gym.tasksets.swe_repo.recipe import Recipe, data, green_tests, load
from m2gym.tasksets.swe_repo.recipe_taskset import RecipeTaskset, build

__all__ = ["SweRepo", "build", "recipes"]


class SweRepo(RecipeTaskset):
    """Version-diff and injected-bug tasks; a recipe becomes files when it is first prepared.

    Packages of the ``test`` split never occur in ``train``. ``cache`` is where archives and built
    trees are kept; ``progress`` is told about downloads.
    """

    def __init__(
        self, cache: Cache | str | Path | None = None, progress: Progress = silent
    ) -> None:
        super().__init__("swe-repo", recipes(), green_tests, cache=cache, progress=progress)


@functools.cache
def recipes() -> dict[str, Recipe]:
    """Id → recipe of every task shipped with m2gym, in alphabetical order.

    A file of ``tasks/`` holds one recipe (``.json``) or one a line (``.jsonl``); seconds and
    distance are those of the last verification (``verified.json``) where there was one.
    """
    verified = data() / "verified.json"
    measured = json.loads(verified.read_text(encoding="utf-8")) if verified.is_file() else {}
    found = {}
    for entry in (data() / "tasks").iterdir():
        text = entry.read_text(encoding="utf-8")
        lines = text.splitlines() if entry.name.endswith(".jsonl") else [text]
        for line in filter(str.strip, lines):
            recipe = load(line, entry.name)
            told = measured.get(recipe.id, {})
            known = {key: told[key] for key in ("seconds", "distance") if told.get(key) is not None}
            found[recipe.id] = recipe.model_copy(update=known)
    return dict(sorted(found.items()))
