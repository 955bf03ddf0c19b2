"""``m2gym demo``: the main job, without any key."""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, stopped
from m2gym.core.errors import InputError
from m2gym.core.task import Taskset

if TYPE_CHECKING:
    from m2gym.backends.local.nano_demo import Learnt

SCRIPT = ("ls -la", "grep -rn 'def ' --include='*.py' . | head -5", "echo 'looked' > NOTES.txt")
"""What the scripted agent does in any repository: it looks, leaves a note, and solves nothing."""


def demo(
    env: Annotated[str, typer.Option(help="Environment shown.")] = "swe-repo",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Tasks.")] = 4,
    updates: Annotated[
        int | None,
        typer.Option(
            min=0, help="Updates of the training at most; 0: none. Its own when left out."
        ),
    ] = None,
    workspace: options.WorkspaceKind = "auto",
    out: options.Out = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run three agents that need no key over real tasks, and train a small model.

    `gold` applies each task's reference change, `noop` does nothing, `scripted` only looks around.
    The first time the tasks' files are downloaded; later it works offline. Then m2-nano, a mixture
    of experts that ships with m2gym, learns an invented tool on the CPU where PyTorch is installed.
    """
    from m2gym.envs.catalog import env_entry
    from m2gym.report.table import summary_table
    from m2gym.rollout.evaluation import evaluate, next_folder
    from m2gym.scaffolds.gold import Gold
    from m2gym.scaffolds.noop import Noop
    from m2gym.scaffolds.scripted import Scripted

    path = out if out is not None else next_folder(env, "demo")
    sample = sample_of(env_entry(env).taskset(), limit)
    note(f"{env}: 3 agents over {len(sample)} task(s); the first time their files are downloaded")
    try:
        runs = [
            evaluate(
                env,
                agent=agent,
                tasks=sample,
                workspace=workspace,
                out=path / agent.name,
                progress=not json,
            )
            for agent in (Gold(), Noop(), Scripted(SCRIPT))
        ]
    except KeyboardInterrupt:
        note("m2gym: stopped")
        raise typer.Exit(130) from None
    summaries = [run.summary for run in runs]
    if not json:
        show(
            summary_table(summaries, f"{env}, {len(runs[0].config.tasks)} tasks of its test split")
        )
        show(f"The runs lie in {path}: {', '.join(run.path.name for run in runs)}\n")
    learnt = _learnt(updates)
    if json:
        told = {"path": str(path), "runs": [summary.as_dict() for summary in summaries]}
        show_json({**told, "learnt": None if learnt is None else learnt.as_dict()})
    else:
        if learnt is not None:
            _show_learnt(learnt)
        show("Next, try:")
        show(f"  m2gym eval {env} --agent human --limit 1    a task by your own hand")
        show(f"  m2gym compare {path / 'noop'} {path / 'gold'}    how sure is the difference")
        show(f"  m2gym list tasks {env}    all tasks there are")
        show("  m2gym list envs    all environments; docs/training.md trains in them")
    lost = next((t.error for run in runs for t in run if t.error), None)
    if any(summary.estimate is None for summary in summaries):
        raise InputError(f"some agents could not be graded; the first cause: {lost}")


def _learnt(updates: int | None) -> Learnt | None:
    """m2-nano's training, told as it goes; ``None`` where it is not wanted or cannot run."""
    if updates == 0:
        return None
    lacking = [n for n in ("torch", "transformers") if importlib.util.find_spec(n) is None]
    if lacking:
        note(
            f"no training shown: {' and '.join(lacking)} not installed; `make demo` in a clone "
            "installs it, or pip install 'm2gym[train]'"
        )
        return None
    from transformers.utils import logging

    from m2gym.backends.local.nano_demo import learn

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    note("m2-nano learns an invented tool from examples, which are then taken away:")

    def told(row: dict[str, Any]) -> None:
        if "held_out" in row:
            note(
                f"  update {row['step']:3}, {row['examples']} examples: reward {row['reward']:.2f};"
                f" new questions without examples {row['held_out']:.2f}"
            )

    try:
        return learn(told=told, steps=updates)
    except KeyboardInterrupt:
        stopped("what was trained is not kept")


def _show_learnt(learnt: Learnt) -> None:
    from rich.table import Table

    table = Table(title=f"m2-nano, {len(learnt.rows)} updates in {learnt.seconds:.0f} s")
    for name in ("new questions", "before", "after"):
        table.add_column(name)
    for shots, name in ((0, "without examples"), (3, "with three")):
        table.add_row(name, f"{learnt.before[shots]:.2f}", f"{learnt.after[shots]:.2f}")
    show(table)
    show(f"Asked: {learnt.question}   The right call: {learnt.call}")
    show(f"Without examples it wrote {learnt.said[0]!r} before, {learnt.said[1]!r} after.\n")


def sample_of(taskset: Taskset, count: int) -> list[str]:
    """Tasks of the test split that are quick to grade, of as many packages and kinds as there are.

    Tasks that do not say so come in the taskset's own order.
    """
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for task_id in taskset.ids("test"):
        told = taskset.task(task_id).metadata
        key = (str(told.get("package", "")), str(told.get("kind", "")))
        groups.setdefault(key, []).append((float(told.get("grade_seconds", 0)), task_id))
    for listed in groups.values():
        listed.sort(key=lambda entry: entry[0])
    chosen: list[str] = []
    packages: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    while groups and len(chosen) < count:
        key = min(groups, key=lambda k: (packages[k[0]], kinds[k[1]], groups[k][0][0]))
        chosen.append(groups[key].pop(0)[1])
        packages[key[0]] += 1
        kinds[key[1]] += 1
        groups = {k: listed for k, listed in groups.items() if listed}
    return chosen
