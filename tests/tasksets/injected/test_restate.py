"""Statements of injected bugs written anew."""

from collections.abc import Callable
from pathlib import Path

from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets import inject_async
from m2gym.tasksets.injected.restate import generated, restate, save
from m2gym.tasksets.registry.cache import Cache
from tests.tasksets.conftest import Index
from tests.tasksets.injected.test_inject import GOOD


async def test_the_same_words_come_again_and_only_changed_ones_are_written(
    index: Index, wheels: Cache, make_box: Callable[[WorkspaceSpec], Workspace], tmp_path: Path
) -> None:
    index.add("tally", "1.0", GOOD)
    made = await inject_async("tally", "1.0", seed=2, n=2, cache=wheels)
    told, why = await restate(made.recipes.values(), wheels)
    assert not why
    assert told == {name: recipe.statement for name, recipe in made.recipes.items()}
    first, second = made.recipes.values()
    path = tmp_path / "tasks" / "tally-injected.jsonl"
    path.parent.mkdir()
    stale = first.model_copy(update={"statement": "It is wrong."})
    path.write_text(
        "".join(f"{r.model_dump_json(exclude_defaults=True)}\n" for r in (stale, second))
    )
    assert save(generated(tmp_path), told) == 1
    assert generated(tmp_path)[path] == [first, second]
    assert save(generated(tmp_path), told) == 0
