"""Verify every task of ``swe-repo`` again: its verdicts, and how good its grader is.

The results lie in ``verified.json`` beside the recipes, each under a hash of what it was made from:
a run that was stopped goes on where it was, and a recipe that changed is verified anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from m2gym.core.errors import InfraError, InputError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.outcomes.screen import Screen
from m2gym.tasksets.quality.grader import Gold, Verified, digest_of, verify_task
from m2gym.tasksets.quality.verified import read_state, save_state, write
from m2gym.tasksets.registry.cache import Cache, key_of
from m2gym.tasksets.swe_repo.recipe import Recipe, green_tests
from m2gym.tasksets.swe_repo.recipe_taskset import build
from m2gym.tasksets.swe_repo.repository import prepare_task
from m2gym.tasksets.swe_repo.tried import DATA, DROPPED
from m2gym.workspaces import make_workspace

Say = Callable[[str, int, int], None]


async def verify_tasks(
    recipes: Mapping[str, Recipe],
    *,
    folder: Path = DATA,
    cache: Cache | None = None,
    concurrency: int = 2,
    workspace: str = "auto",
    runs: int = 1,
    say: Say = lambda what, done, total: None,
) -> dict[str, Verified]:
    """Verify what has no result yet; everything known of these recipes.

    A failing machine or download leaves a task without a result; the next run tries it again.
    """
    import m2gym.rewards  # noqa: F401  (registers the reward functions)

    store = cache or Cache()
    digests = {name: digest_of(r, green_tests(r.green)) for name, r in recipes.items()}
    state = {n: v for n, v in read_state(folder).items() if digests.get(n, v.recipe) == v.recipe}
    groups: dict[str, list[Recipe]] = {}
    for name, recipe in recipes.items():
        if name not in state:
            groups.setdefault(_release(recipe), []).append(recipe)
    queue = list(groups.values())
    total, done = sum(map(len, queue)), 0

    def make_box(spec: WorkspaceSpec) -> Workspace:
        return make_workspace(spec, workspace)

    async def group(listed: Sequence[Recipe]) -> None:
        nonlocal done
        screen: Screen | None = None
        gold: Gold = {}
        try:
            for recipe in listed:
                green = green_tests(recipe.green)
                built = await asyncio.to_thread(build, recipe, store)
                prepared = prepare_task(recipe.task(green), built, recipe.requires, store)
                if screen is None:
                    screen = await Screen(prepared, make_box, recipe.command).__aenter__()
                state[recipe.id] = await verify_task(
                    recipe,
                    green,
                    built,
                    prepared,
                    screen,
                    make_box,
                    digest=digests[recipe.id],
                    runs=runs,
                    gold=gold,
                )
                done += 1
                save_state({**read_state(folder), recipe.id: state[recipe.id]}, folder)
                say(f"{recipe.id}: {state[recipe.id].problem or 'ok'}", done, total)
        except (InfraError, InputError) as error:
            say(f"{listed[0].package}: not verified: {error}", done, total)
        finally:
            if screen is not None:
                await screen.__aexit__()

    async def work() -> None:
        while queue:
            await group(queue.pop(0))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return {name: state[name] for name in recipes if name in state}


def _release(recipe: Recipe) -> str:
    """Tasks with the same mended tree share a warm pytest."""
    fixed = recipe.fixed.sha256 if recipe.fixed else ""
    parts = [piece.model_dump() for piece in recipe.part]
    return key_of(recipe.source.sha256, fixed, parts, list(recipe.command))


def prune(recipes: Mapping[str, Recipe], state: Mapping[str, Verified], folder: Path) -> list[str]:
    """Take out of the shipped set what a verification found unfit; the ids, noted with reasons."""
    unfit = {name: p for name in recipes if (v := state.get(name)) and (p := v.problem)}
    path = folder / DROPPED
    noted = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    noted |= {name: [recipes[name].kind, reason] for name, reason in unfit.items()}
    if noted:
        write(path, json.dumps(noted, indent=0, sort_keys=True) + "\n")
    for entry in sorted((folder / "tasks").iterdir()):
        text = entry.read_text(encoding="utf-8")
        if entry.suffix == ".jsonl":
            lines = [line for line in text.splitlines() if line.strip()]
            kept = [line for line in lines if json.loads(line)["id"] not in unfit]
            if len(kept) < len(lines):
                write(entry, "".join(f"{line}\n" for line in kept))
        elif entry.suffix == ".json" and json.loads(text)["id"] in unfit:
            entry.unlink()
    return sorted(unfit)
