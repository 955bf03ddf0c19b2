"""Write the generated statements anew: ``python -m m2gym.tasksets.injected.restate [ID …]``.

The failing tests of every shipped injected bug run once more, in the warm pytest of its release,
and what they see is put into words by today's generator. A statement that is written by hand (a
recipe in a file of its own) stays. One that cannot be told any more, or that the checks find fault
with, stays too, and is named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from m2gym.core.blocking import run_blocking
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.injected.finder import GENERAL, TEST_SECONDS, report
from m2gym.tasksets.outcomes.screen import Screen
from m2gym.tasksets.quality.patches import Change
from m2gym.tasksets.quality.verified import write
from m2gym.tasksets.registry.cache import Cache, key_of
from m2gym.tasksets.statements.check import check_statement
from m2gym.tasksets.statements.describe import describe
from m2gym.tasksets.swe_repo.recipe import Recipe, load
from m2gym.tasksets.swe_repo.recipe_taskset import build
from m2gym.tasksets.swe_repo.release import release_of
from m2gym.tasksets.swe_repo.tried import DATA
from m2gym.workspaces import make_workspace


def generated(folder: Path) -> dict[Path, list[Recipe]]:
    """File → recipes, of the injected bugs whose statements were generated."""
    return {
        path: [load(line, path.name) for line in path.read_text("utf-8").splitlines()]
        for path in sorted((folder / "tasks").glob("*-injected.jsonl"))
    }


async def restate(recipes: Iterable[Recipe], cache: Cache) -> tuple[dict[str, str], dict[str, str]]:
    """Statements by id, and why others have none.

    Raises:
        DownloadError, InfraError: files are not to be had, a box failed.
    """
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(key_of(recipe.source.sha256, list(recipe.command)), []).append(recipe)
    told: dict[str, str] = {}
    why: dict[str, str] = {}
    for group in groups.values():
        head = group[0]
        release = await asyncio.to_thread(release_of, head.source, cache, requires=head.requires)
        async with Screen(release.prepared, _make_box, head.command) as screen:
            for recipe in group:
                text, reason = await _restated(recipe, screen, cache)
                (told if text else why)[recipe.id] = text or reason
        _say(f"{release.name}: {sum(r.id in told for r in group)} of {len(group)}")
    return told, why


def _make_box(spec: WorkspaceSpec) -> Workspace:
    return make_workspace(spec, "auto")


async def _restated(recipe: Recipe, screen: Screen, cache: Cache) -> tuple[str, str]:
    built = await asyncio.to_thread(build, recipe, cache)
    answer = await screen.ask(
        Change.of(built).before,
        recipe.shown_by,
        only=recipe.fail_to_pass,
        explain=True,
        timeout=TEST_SECONDS,
    )
    facts = {test: answer.facts[test] for test in recipe.fail_to_pass if test in answer.facts}
    text = describe(recipe.package, facts, int(key_of(recipe.id)[:8], 16))
    if text is None:
        lost = {name for fact in facts.values() for name in fact.get("open", ())}
        return "", f"what the failing tests saw cannot be told, for one thing {sorted(lost)}"
    messages = {test: report(fact) for test, fact in facts.items()}
    found = await asyncio.to_thread(check_statement, text, built, recipe.fail_to_pass, messages)
    left = [f for f in found if (f.check, f.what) not in GENERAL]
    return ("", str(left[0])) if left else (text, "")


def save(files: Mapping[Path, Sequence[Recipe]], told: Mapping[str, str]) -> int:
    """Put statements into the recipes' files; how many changed."""
    changed = 0
    for path, recipes in files.items():
        new = [r.model_copy(update={"statement": told.get(r.id, r.statement)}) for r in recipes]
        count = sum(a != b for a, b in zip(new, recipes, strict=True))
        if count:
            lines = [recipe.model_dump_json(exclude_defaults=True) for recipe in new]
            write(path, "".join(f"{line}\n" for line in lines))
        changed += count
    return changed


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; 1 when a statement could not be written anew."""
    parser = argparse.ArgumentParser(
        prog="python -m m2gym.tasksets.injected.restate", description=__doc__
    )
    parser.add_argument("ids", nargs="*", help="tasks (default: all with a generated statement)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recipes")
    parser.add_argument("--show", action="store_true", help="print them and write nothing")
    options = parser.parse_args(arguments)
    files = generated(options.data)
    wanted = [r for rs in files.values() for r in rs if not options.ids or r.id in options.ids]
    told, why = run_blocking(restate(wanted, Cache()))
    if options.show:
        print(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        _say(f"{save(files, told)} statements changed")
    for name, reason in why.items():
        _say(f"{name}: its statement stays: {reason}")
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
