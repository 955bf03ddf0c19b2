"""Grade what episodes left once more: to mend verdicts, or to see whether the grader is steady.

Each further verdict is a line of ``gradings.jsonl``, with a checksum like a record's. With
``apply`` the new verdict also becomes the episode's own, by another line of the records.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import Field, ValidationError

from m2gym.core.blocking import run_blocking
from m2gym.core.errors import InfraError, InputError, VerifierError
from m2gym.core.task import Frozen, Task
from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Verdict
from m2gym.core.workspace import Workspace
from m2gym.envs.catalog import EnvEntry, env_entry
from m2gym.rewards import grade
from m2gym.rollout.artifacts import ArtifactStore, Delta
from m2gym.rollout.driver import cause
from m2gym.rollout.gates import Gate
from m2gym.rollout.limits import EpisodeLimits
from m2gym.rollout.records import checked_lines, sealed
from m2gym.rollout.run import Run
from m2gym.rollout.run_folder import RunWriter
from m2gym.workspaces import make_workspace

GRADINGS = "gradings.jsonl"


class Grading(Frozen):
    """One further grading of one episode."""

    id: str = Field(description="the episode's")
    task: str
    attempt: int
    task_hash: str = Field(description="of the task graded by, which may have changed since")
    verdict: Verdict
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Regraded:
    """What came of it: ``changed`` verdicts were graded before and now differ in reward or status;
    ``skipped`` episodes never had artifacts (their box never opened), did not keep them, or had
    some outside of the work folder, which are not kept."""

    gradings: list[Grading]
    changed: list[tuple[Trajectory, Grading]]
    skipped: int


def read_gradings(path: Path) -> Iterator[Grading]:
    """The further gradings of a run folder, in their order."""
    for line in checked_lines(path / GRADINGS):
        try:
            yield Grading.model_validate_json(line)
        except ValidationError as error:
            raise InputError(f"{path / GRADINGS}: {error.errors()[0]['msg']}") from None


def regrade(
    path: str | Path,
    *,
    times: int = 1,
    tasks: Sequence[str] | None = None,
    concurrency: int | None = None,
    apply: bool = False,
    changed_tasks: bool = False,
) -> Regraded:
    """Grade a run's episodes again, from the artifacts it kept.

    Args:
        times: gradings of each episode.
        tasks: only these.
        concurrency: gradings at once; by default one a processor.
        apply: the last verdict that was really graded becomes the episode's own.
        changed_tasks: grade by the tasks as they are now; else a changed one is refused.

    Raises:
        InputError: a task has changed or is gone; the run kept no artifacts; it is being written.
    """
    return run_blocking(
        regrade_async(
            path,
            times=times,
            tasks=tasks,
            concurrency=concurrency,
            apply=apply,
            changed_tasks=changed_tasks,
        )
    )


async def regrade_async(
    path: str | Path,
    *,
    times: int = 1,
    tasks: Sequence[str] | None = None,
    concurrency: int | None = None,
    apply: bool = False,
    changed_tasks: bool = False,
) -> Regraded:
    """The asynchronous twin of `regrade`."""
    if times < 1:
        raise InputError(f"times must be at least 1, got {times}")
    run = Run(path)
    store = ArtifactStore(run.path)
    wanted = set(run.config.tasks if tasks is None else tasks)
    if unknown := wanted - set(run.config.tasks):
        raise InputError(f"the run has no task {', '.join(sorted(unknown))}")
    entry = env_entry(run.config.env)
    current = _tasks(run, entry, wanted, changed_tasks)
    limits = EpisodeLimits.model_validate(run.config.limits)
    gate = Gate(concurrency or os.cpu_count() or 1)
    gradings: list[Grading] = []
    changed: list[tuple[Trajectory, Grading]] = []
    skipped = 0
    with (
        RunWriter(run.path, run.info, resume=True) as writer,
        (run.path / GRADINGS).open("ab") as file,
    ):

        async def one(episode: Trajectory, delta: Delta | None) -> None:
            try:
                found = [
                    await _grade_once(entry, current[episode.task], limits, episode, delta)
                    for _ in range(times)
                ]
            finally:
                gate.release()
            file.write(b"".join(sealed(grading) for grading in found))
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
            gradings.extend(found)
            graded = [grading for grading in found if grading.verdict.graded]
            if not graded:
                return
            last = graded[-1]
            if (last.verdict.reward, last.verdict.status) != (
                episode.verdict.reward,
                episode.verdict.status,
            ):
                changed.append((episode, last))
            if apply:
                mended = {
                    "verdict": last.verdict,
                    "task_hash": last.task_hash,
                    "error": last.error,
                    "cause": None,
                }
                writer.append(episode.model_copy(update=mended))

        async with asyncio.TaskGroup() as group:
            for episode in run:
                if episode.task not in wanted:
                    continue
                told = episode.verdict.evidence.get("artifacts", {})
                if not store.kept(episode.id) or told.get("elsewhere"):
                    skipped += 1
                    continue
                await gate.acquire()
                delta = await asyncio.to_thread(store.load, episode.id)
                group.create_task(one(episode, delta))
    if not gradings:
        raise InputError(
            f"{run.path} kept no artifacts to grade: its boxes never opened, or it was run with "
            "--no-artifacts or by an older m2gym"
        )
    return Regraded(gradings, changed, skipped)


def _tasks(run: Run, entry: EnvEntry, wanted: set[str], changed_tasks: bool) -> dict[str, Task]:
    taskset = entry.taskset()
    found = {id: taskset.task(id) for id in run.config.tasks if id in wanted}
    for id, task in found.items():
        if task.isolation == "shared" or "steps" in task.metadata:
            what = "in stages" if "steps" in task.metadata else "in the agent's own box"
            raise InputError(
                f"task {id!r} is judged {what}, of which a run keeps no more than the last files: "
                "it cannot be graded again; leave it out with --task"
            )
    differing = [
        id for id, task in found.items() if task.content_hash() != run.info.task_hashes[id]
    ]
    if differing and not changed_tasks:
        raise InputError(
            f"content of tasks differs from the run's: {', '.join(differing[:8])}"
            f"{' …' if len(differing) > 8 else ''}; grade by the present ones with --changed-tasks"
        )
    return found


async def _grade_once(
    entry: EnvEntry, task: Task, limits: EpisodeLimits, episode: Trajectory, delta: Delta | None
) -> Grading:
    """Lay an episode's files over the task's own, in a box, and grade that box."""
    prepared = await asyncio.to_thread(entry.taskset().prepare, limits.apply(task))
    box = make_workspace(prepared.workspace, episode.workspace or "auto")
    clock = asyncio.get_running_loop().time
    begun, error = clock(), None
    try:
        await box.start()
        if delta is not None:
            await _lay(box, delta)
        verdict = await grade(
            prepared,
            box,
            trajectory=episode.steps,
            stop=episode.verdict.stop,
            make_box=partial(make_workspace, kind=box.kind),
        )
    except (InfraError, OSError) as problem:
        verdict, error = Verdict(reward=None, status="infra_error"), cause(problem)
    except VerifierError as problem:
        verdict, error = Verdict(reward=None, status="verifier_error"), cause(problem)
    finally:
        await box.stop()
    if verdict.status == "ok" and episode.verdict.status == "agent_error":
        verdict, error = verdict.model_copy(update={"status": "agent_error"}), episode.error
    return Grading(
        id=episode.id,
        task=episode.task,
        attempt=episode.attempt,
        task_hash=task.content_hash(),
        verdict=verdict,
        error=error,
        seconds=round(clock() - begun, 6),
    )


async def _lay(box: Workspace, delta: Delta) -> None:
    if delta.deleted:
        for start in range(0, len(delta.deleted), 200):
            names = delta.deleted[start : start + 200]
            done = await box.exec(["rm", "-rf", "--", *names], timeout=60)
            if not done.ok:
                raise InfraError(f"could not delete {names[0]!r} …: {done.output[-200:]}")
    if delta.tar:
        await box.unpack(delta.tar, user="agent")
