"""Many episodes at once into a run folder that survives being killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from m2gym.core.blocking import run_blocking
from m2gym.core.errors import InputError
from m2gym.core.protocols import Model, Scaffold
from m2gym.core.task import Mount, Split, Task, Taskset, no_task_in
from m2gym.envs.catalog import env_entry
from m2gym.models.budget import Budget
from m2gym.rollout.artifacts import ArtifactStore
from m2gym.rollout.commit import GroupCommit
from m2gym.rollout.control import Control
from m2gym.rollout.driver import Attempt
from m2gym.rollout.executors import make_executor
from m2gym.rollout.gates import AtOnce, Gates
from m2gym.rollout.limits import EpisodeLimits, Retries
from m2gym.rollout.pool import Pool
from m2gym.rollout.progress import EpisodeProgress
from m2gym.rollout.run import Run
from m2gym.rollout.run_folder import RunWriter
from m2gym.rollout.run_info import RunConfig, new_info
from m2gym.rollout.sessions import as_model, check_uses_model
from m2gym.scaffolds.agents import check_scaffold, describe, parse_agent
from m2gym.scaffolds.blackbox.contract import mounts_of
from m2gym.tasksets.registry.cache import silent

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
    limits: EpisodeLimits | None = None,
    at_once: AtOnce | None = None,
    retries: Retries | None = None,
    executor: str = "local",
    keep_artifacts: bool = True,
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
        seed: episode seeds follow from it, the task and the attempt; so does the tasks' order.
        limits: bounds of an episode by phase, in the place of the tasks' own.
        at_once: boxes, their creations a second, calls of the model and graders at once; its
            ``episodes`` is ``concurrency`` by another name. `m2gym ctl` changes them meanwhile.
        retries: what is done about episodes that infrastructure failed, within this run.
        executor: ``local``, ``ray`` (one of this machine's) or ``ray:ADDRESS``.
        keep_artifacts: keep what each episode left, for `m2gym regrade` and diffs.
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
            limits=limits,
            at_once=at_once,
            retries=retries,
            executor=executor,
            keep_artifacts=keep_artifacts,
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
    limits: EpisodeLimits | None = None,
    at_once: AtOnce | None = None,
    retries: Retries | None = None,
    executor: str = "local",
    keep_artifacts: bool = True,
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
        limits=limits.model_dump(exclude_none=True) if limits is not None else {},
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
        limits=limits or EpisodeLimits(),
        keep=ArtifactStore(path).keep if keep_artifacts else None,
    )
    interactive = bool(getattr(scaffold, "interactive", False))
    workers = 1 if interactive else concurrency or os.cpu_count() or 1
    at_once = at_once or AtOnce()
    if at_once.episodes is None or interactive:
        at_once = at_once.model_copy(update={"episodes": workers})
    gates, retries = Gates(at_once), retries or Retries()
    running = make_executor(executor, config, agent, model)
    with RunWriter(path, info, resume=resume) as writer:
        total = len(chosen) * attempts
        label = f"{config.env} · {config.agent}"
        with EpisodeProgress(
            label, total, len(writer.done), shown=progress and not interactive
        ) as bar:
            if getattr(taskset, "progress", None) is silent:
                taskset.progress = bar.files  # type: ignore[attr-defined]
            mounts: tuple[Mount, ...] = ()
            if len(writer.done) < total:
                mounts = await asyncio.to_thread(mounts_of, scaffold, None, bar.files)
            first = replace(first, mounts=mounts, gates=gates)
            todo = plan(first, chosen, attempts, seed, writer.done, shuffled=not interactive)
            commit = GroupCommit(writer)
            budgeted = retries.of_run(total)
            pool = Pool(todo, gates, running, commit.append, bar.add, retries, budgeted)

            def state() -> dict[str, object]:
                spent = {"left": pool.budget, "used": pool.used}
                return {"executor": executor, **bar.state(), "retries": spent}

            try:
                async with Control(path, gates, state):
                    await pool.work()
            finally:
                await running.close()
                await commit.drain()
    return Run(path)


def choose(
    taskset: Taskset, split: Split, limit: int | None, tasks: Sequence[str] | None
) -> list[Task]:
    """The tasks of an evaluation, in their order."""
    ids = list(taskset.ids(split)) if tasks is None else list(tasks)
    if len(set(ids)) != len(ids):
        raise InputError("a task is named twice; ask for attempts instead")
    if not ids:
        raise InputError(no_task_in(f"taskset {taskset.name!r}", taskset, split))
    return [taskset.task(task_id) for task_id in ids[:limit]]


def plan(
    first: Attempt,
    tasks: Sequence[Task],
    attempts: int,
    seed: int,
    done: set[tuple[str, int]],
    *,
    shuffled: bool = True,
) -> Iterator[Attempt]:
    """What is still to do: every task once before any twice, each round in its own seeded order.

    So a run that is stopped early has seen all tasks about equally often, and slow tasks that stand
    together in a taskset do not run together. The order depends on the seed alone.
    """
    for number in range(attempts):
        order = list(tasks)
        if shuffled:
            random.Random(f"{seed}/{number}").shuffle(order)
        for task in order:
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
