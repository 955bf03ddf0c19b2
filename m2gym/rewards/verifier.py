"""Grading: what the agent left, judged in a fresh box that it never touched.

    agent's box ─ kill ─ export (by us, nothing of the agent's runs) ─ clean
                                                                         │
    pristine spec ─ fresh box, no network ─ the agent's files ─ hidden files ─ rewards ─ Verdict

The fresh box is made only where a reward looks at one: rewards over artifacts alone run nothing.
Where a task's format demands the agent's own box (``isolation: shared``), nothing is killed and the
hidden files go there; the verdict says so, and trainers leave it out.

Infrastructure that fails raises `InfraError` and grading that fails `VerifierError`: neither is
ever a reward. Graded code that hangs, crashes or cannot be imported scores 0, with evidence.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from m2gym.core.errors import InfraError, UngradableError, VerifierError
from m2gym.core.task import PreparedTask, Task, WorkspaceSpec
from m2gym.core.verdict import Score, Stop, Verdict
from m2gym.core.workspace import User, Workspace
from m2gym.rewards import elsewhere
from m2gym.rewards.combine import combine, score_names
from m2gym.rewards.exported import Exported, clean
from m2gym.rewards.flags import look
from m2gym.rewards.functions import GradedArtifacts, call, check_rewards, looks_at_box
from m2gym.rewards.grading import Grading, tree
from m2gym.workspaces.slots import for_grading

A = TypeVar("A")
B = TypeVar("B")

SMALL = 1 << 15
"""Bytes of a whole work folder that are looked at faster than they are handed to a thread; the
project's choice."""

MARGIN = 60.0
"""Seconds beyond ``limits.grade_seconds`` after which grading itself is given up."""


async def grade(
    prepared: PreparedTask,
    agent_box: Workspace,
    *,
    trajectory: Any = None,
    stop: Stop | None = None,
    make_box: Callable[[WorkspaceSpec], Workspace],
    seed: int | None = None,
    keep: Callable[[Exported], None] | None = None,
    goes_on: bool = False,
) -> Verdict:
    """The verdict of an episode whose agent worked in ``agent_box``.

    Every process of ``agent_box`` is killed; its files stay. ``make_box`` makes an unstarted box,
    which is stopped here; it is not called where no reward looks at a box. ``seed`` chooses the
    decoys; without one they cannot be foretold. ``keep`` is given the cleaned artifacts, in a
    thread, before they are judged. ``goes_on``: the box will be worked in further, so that nothing
    in it is killed.

    Raises:
        InputError: the task's rewards cannot be computed (see `check_rewards`).
        InfraError: a box failed.
        VerifierError: a reward function failed, or grading took too long.
    """
    task = prepared.task
    check_rewards(task)
    started = time.monotonic()
    seed = secrets.randbits(63) if seed is None else seed
    evidence: dict[str, Any] = {"seed": seed}
    shared = task.isolation == "shared"
    made = make_box(_fresh(prepared)) if looks_at_box(task) and not shared else None
    box = agent_box if shared else made
    grading = None
    limit = task.limits.grade_seconds + MARGIN
    try:
        async with asyncio.timeout(limit) as clock:
            leave = shared or goes_on
            examining = _export(prepared, agent_box, evidence, keep, leave=leave)
            if made is None:
                exported, hidden = await examining
            else:
                with for_grading():
                    starting = asyncio.ensure_future(made.start())
                _, (exported, hidden) = await _both(starting, examining)
                await _fill(made, prepared, exported)
            if box is not None and hidden:
                await box.unpack(await asyncio.to_thread(pack_files, hidden), user="grader")
            given = {
                "task": task,
                "prepared": prepared,
                "artifacts": GradedArtifacts(exported.files),
                "trajectory": trajectory,
            }
            if box is not None:
                grading = Grading(
                    prepared=prepared,
                    workspace=box,
                    artifacts=given["artifacts"],
                    trajectory=trajectory,
                    seed=seed,
                    links=exported.links,
                    hidden=hidden,
                )
                given |= {"workspace": box, "grading": grading}
            scores = await _scores(task, given)
    except UngradableError as error:
        evidence["error"] = str(error)
        return _verdict(task, 0.0, {}, "agent_error", stop, evidence)
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise VerifierError(f"grading took longer than {limit:g} seconds") from error
    finally:
        if made is not None:
            await made.stop()
    evidence["seconds"] = {
        "tests": round(grading.seconds_tests, 4) if grading is not None else 0.0,
        "total": round(time.monotonic() - started, 4),
    }
    weights = [spec.weight for spec in task.rewards]
    reward = combine(zip(scores, weights, scores.values(), strict=True))
    forged = any(score.forged for score in scores.values())
    return _verdict(task, reward, scores, "forged" if forged else "ok", stop, evidence)


async def _both(first: Awaitable[A], second: Awaitable[B]) -> tuple[A, B]:
    """Both at once; the first error is raised when both have ended."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast(tuple[A, B], results)


async def _export(
    prepared: PreparedTask,
    agent_box: Workspace,
    evidence: dict[str, Any],
    keep: Callable[[Exported], None] | None,
    *,
    leave: bool,
) -> tuple[Exported, dict[str, Path]]:
    """The agent's cleaned artifacts and the hidden files, told in ``evidence``."""
    if not leave:
        await agent_box.kill()
    inside, outside = elsewhere.parted(prepared.task.artifacts)
    packed = await agent_box.export(inside)
    if len(packed) <= SMALL and prepared.hidden is None and _whole(prepared):
        exported, hidden = _examine(prepared, packed, evidence, keep)
    else:
        exported, hidden = await asyncio.to_thread(_examine, prepared, packed, evidence, keep)
    exported.elsewhere = await elsewhere.take(agent_box, outside)
    if exported.elsewhere is not None and exported.elsewhere.files:
        evidence["artifacts"]["elsewhere"] = len(exported.elsewhere.files)
    gate = getattr(agent_box, "gate", None)
    if gate is not None:
        evidence["network"] = gate.proxy.record()
    return exported, hidden


def _examine(
    prepared: PreparedTask,
    packed: bytes,
    evidence: dict[str, Any],
    keep: Callable[[Exported], None] | None,
) -> tuple[Exported, dict[str, Path]]:
    hidden = tree(prepared.hidden)
    evidence["hidden_paths"] = sorted(hidden)[:200]
    try:
        exported = clean(packed, hidden)
    except tarfile.TarError as error:
        raise InfraError(f"the exported artifacts are no readable tar: {error}") from error
    evidence["artifacts"] = {
        "files": len(exported.files),
        "bytes": sum(map(len, exported.files.values())),
        "dropped": len(exported.dropped),
        "first_dropped": [d for d in exported.dropped if not d.endswith("byte code")][:20],
    }
    evidence["flags"] = look(exported.files, prepared.workspace.root)
    if keep is not None:
        keep(exported)
    return exported, hidden


def _verdict(
    task: Task, reward: float, scores: dict[str, Score], status: Any, stop: Stop | None, told: Any
) -> Verdict:
    return Verdict(
        reward=reward,
        scores=scores,
        status=status,
        stop=stop,
        isolation=task.isolation,
        evidence=told,
    )


def _whole(prepared: PreparedTask) -> bool:
    return any(path in (".", "./") for path in prepared.task.artifacts)


def _fresh(prepared: PreparedTask) -> WorkspaceSpec:
    """The grading box's spec: no network but what a format gives its verifier; an empty work
    folder where the whole is replaced."""
    spec = prepared.grading or prepared.workspace.model_copy(
        update={"network": "none", "allowed_hosts": ()}
    )
    return spec.model_copy(update={"root": None}) if _whole(prepared) else spec


async def _fill(box: Workspace, prepared: PreparedTask, exported: Exported) -> None:
    """Make the declared artifacts equal the agent's (what it deleted goes)."""
    user: User | None = "root" if "users" in box.capabilities else None
    clear: list[str] | None = None
    inside, outside = elsewhere.parted(prepared.task.artifacts)
    if not _whole(prepared):
        clear = ["rm", "-rf", "--", *inside] if inside else None
    elif prepared.workspace.root is None or _has_image(box.spec):
        clear = ["find", ".", "-mindepth", "1", "-delete"]
    if clear:
        result = await box.exec(clear, user=user)
        if not result.ok:
            raise InfraError(f"could not clear the grading box: {result.output[-200:]}")
    await box.unpack(exported.tar, user="agent")
    if exported.elsewhere is not None:
        await elsewhere.put(box, outside, exported.elsewhere)


def _has_image(spec: WorkspaceSpec) -> bool:
    """Whether the image may bring files of its own into the work folder."""
    return spec.image is not None or spec.build is not None


def pack_files(files: dict[str, Path]) -> bytes:
    """A tar of files: path in it → file here."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, source in files.items():
            info = tarfile.TarInfo(path)
            data = source.read_bytes()
            status = source.stat()
            info.size, info.mtime = len(data), int(status.st_mtime)
            info.mode = 0o755 if status.st_mode & 0o111 else 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def _scores(task: Task, given: dict[str, Any]) -> dict[str, Score]:
    return {
        name: await call(spec, given)
        for name, spec in zip(score_names(task.rewards), task.rewards, strict=True)
    }
