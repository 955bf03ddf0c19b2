"""Many episodes at once into a run folder that survives being killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from m2gym.core.blocking import run_blocking
from m2gym.core.errors import InputError
from m2gym.core.protocols import Model, Scaffold
from m2gym.core.task import Mount, Split, Task, Taskset
from m2gym.envs.catalog import env_entry
from m2gym.models.budget import Budget
from m2gym.rollout.driver import Attempt, run_episode
from m2gym.rollout.progress import EpisodeProgress
from m2gym.rollout.run import Run
from m2gym.rollout.run_folder import RunWriter
from m2gym.rollout.run_info import RunConfig, new_info
from m2gym.rollout.sessions import as_model, check_uses_model
from m2gym.scaffolds.agents import check_scaffold, describe, parse_agent
from m2gym.scaffolds.blackbox.contract import mounts_of
from m2gym.tasksets.cache import silent

RUNS = Path("runs")
"""Where runs go that name no folder, below the current one."""


def evaluate(
    env: str,
    *,
    agent: str | Scaffold,
    model: str | Model | None = None,
    budget: Budget | None = None,
    split: Split = "test",
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    attempts: int = 1,
    concurrency: int | None = None,
    workspace: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Let an agent attempt tasks of an environment, and record every episode.

    Args:
        env: environment id.
        agent: ``id``, ``id:argument``, ``module:Class`` or an object with ``async run(episode)``.
        model: for agents that call one: ``scripted:FILE``, ``replay:RUN``, a provider's name, … or
            a `m2gym.core.protocols.Model`.
        budget: what an episode's model calls may use; see `m2gym.models.budget.Budget`.
        split: whose tasks, unless ``tasks`` names them; ``limit`` keeps the first so many.
        attempts: episodes a task.
        concurrency: episodes at once; by default one a processor.
        workspace: ``auto`` or a workspace's id.
        seed: episode seeds follow from it, the task and the attempt.
        out: the run folder; by default a new one below ``runs/``.
        resume: go on with the run in ``out``: episodes on record are kept, those that
            infrastructure failed are tried again, another configuration is refused.
        progress: a bar on the error stream, where that is a terminal or a notebook.

    Works inside a running event loop. SIGINT and SIGTERM remove every box, then raise
    `KeyboardInterrupt`; finished episodes are on record.

    Raises:
        InputError: an unknown id, a wrong option, a folder in use or of another configuration.
    """
    return run_blocking(
        evaluate_async(
            env,
            agent=agent,
            model=model,
            budget=budget,
            split=split,
            limit=limit,
            tasks=tasks,
            attempts=attempts,
            concurrency=concurrency,
            workspace=workspace,
            seed=seed,
            out=out,
            resume=resume,
            progress=progress,
        )
    )


async def evaluate_async(
    env: str,
    *,
    agent: str | Scaffold,
    model: str | Model | None = None,
    budget: Budget | None = None,
    split: Split = "test",
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    attempts: int = 1,
    concurrency: int | None = None,
    workspace: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """The asynchronous twin of `evaluate`; cancelling it removes every box."""
    if resume and out is None:
        raise InputError("resume needs the run's folder: out=…")
    for name, value in (("limit", limit), ("attempts", attempts), ("concurrency", concurrency)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    scaffold = parse_agent(agent) if isinstance(agent, str) else check_scaffold(agent)
    check_uses_model(scaffold, model)
    answers, named = as_model(model)
    entry = env_entry(env)
    taskset = entry.taskset()
    chosen = choose(taskset, split, limit, tasks)
    config = RunConfig(
        env=entry.id,
        agent=agent if isinstance(agent, str) else scaffold.name,
        scaffold=describe(scaffold),
        model=named,
        budget=asdict(budget) if budget is not None else {},
        split=split,
        tasks=tuple(task.id for task in chosen),
        attempts=attempts,
        workspace=workspace,
        seed=seed,
    )
    info = new_info(config, {task.id: task.content_hash() for task in chosen})
    path = Path(out) if out is not None else next_folder(config.env, config.agent)
    first = Attempt(
        env=entry,
        taskset=taskset,
        task=chosen[0],
        scaffold=scaffold,
        agent=config.agent,
        model=named,
        workspace=workspace,
        answers=answers,
        budget=budget,
    )
    workers = 1 if getattr(scaffold, "interactive", False) else concurrency or os.cpu_count() or 1
    with RunWriter(path, info, resume=resume) as writer:
        total = len(chosen) * attempts
        label = f"{config.env} · {config.agent}"
        shown = progress and not getattr(scaffold, "interactive", False)
        with EpisodeProgress(label, total, len(writer.done), shown=shown) as bar:
            if getattr(taskset, "progress", None) is silent:
                taskset.progress = bar.files  # type: ignore[attr-defined]
            mounts: tuple[Mount, ...] = ()
            if len(writer.done) < total:
                mounts = await asyncio.to_thread(mounts_of, scaffold, None, bar.files)
            todo = plan(replace(first, mounts=mounts), chosen, attempts, seed, writer.done)
            await _Pool(todo, writer, bar).work(min(workers, total))
    return Run(path)


def choose(
    taskset: Taskset, split: Split, limit: int | None, tasks: Sequence[str] | None
) -> list[Task]:
    """The tasks of an evaluation, in their order."""
    ids = list(taskset.ids(split)) if tasks is None else list(tasks)
    if len(set(ids)) != len(ids):
        raise InputError("a task is named twice; ask for attempts instead")
    if not ids:
        raise InputError(f"taskset {taskset.name!r} has no task in its {split!r} split")
    return [taskset.task(task_id) for task_id in ids[:limit]]


def plan(
    first: Attempt, tasks: Sequence[Task], attempts: int, seed: int, done: set[tuple[str, int]]
) -> Iterator[Attempt]:
    """What is still to do: every task once before any twice."""
    for number in range(attempts):
        for task in tasks:
            if (task.id, number) not in done:
                own = episode_seed(seed, task.id, number)
                yield replace(first, task=task, number=number, seed=own)


def episode_seed(seed: int, task: str, attempt: int) -> int:
    """A seed of 31 bits for one episode, the same in every process."""
    digest = hashlib.sha256(f"{seed}/{task}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def next_folder(env: str, agent: str) -> Path:
    """A name below `RUNS` that says when and what, not yet in use."""
    what = re.sub(r"[^\w.-]+", "-", f"{env}-{agent}").strip("-")[:60]
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{what}"
    path, number = RUNS / stem, 2
    while path.exists():
        path, number = RUNS / f"{stem}-{number}", number + 1
    return path


@dataclass
class _Pool:
    """Workers that take the next attempt as they come free, so that memory stays flat."""

    todo: Iterator[Attempt]
    writer: RunWriter
    bar: EpisodeProgress

    async def work(self, workers: int) -> None:
        tasks = [asyncio.create_task(self._worker()) for _ in range(workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _worker(self) -> None:
        for attempt in self.todo:
            trajectory = await run_episode(attempt)
            self.writer.append(trajectory)
            self.bar.add(trajectory)
