"""One episode, from an open box to a `Trajectory`: where every error is attributed, once.

    open ──► scaffold.run within the deadline ──► submit (grade) ──► Trajectory ──► close

| what happens | status | reward |
|---|---|---|
| the scaffold ends, or submits, or a limit ends it | ok (or forged) | the verdict's |
| the scaffold is still running at the deadline | ok, stop ``deadline`` | the verdict's |
| the scaffold raises | agent_error | the verdict's |
| a box, a download or a disk fails | infra_error | none |
| grading itself fails | verifier_error | none |

`InputError` while the episode is opened (a missing capability, a wrong option) is the caller's
mistake and is raised.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from m2gym.core.errors import InfraError, VerifierError
from m2gym.core.protocols import Episode, Scaffold
from m2gym.core.task import Task, Taskset
from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Stop, Verdict
from m2gym.envs.catalog import EnvEntry
from m2gym.envs.episode import open_episode

CLOSE_SECONDS = 30.0
"""How long removing a box may take before it is given up with a warning; the project's choice."""

Failure = Literal["infra_error", "verifier_error"]


@dataclass(frozen=True)
class Attempt:
    """What one episode is made from."""

    env: EnvEntry
    taskset: Taskset
    task: Task
    scaffold: Scaffold
    agent: str
    model: str | None = None
    workspace: str = "auto"
    seed: int | None = None
    number: int = 0


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - begun, 6)


async def run_episode(attempt: Attempt) -> Trajectory:
    """One episode; the box is always closed, also when the caller is cancelled.

    ``seconds`` has the phases ``start`` (files at hand and box open), ``agent`` and ``grade``.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="milliseconds"), _Clock()
    try:
        with clock.phase("start"):
            episode = await open_episode(
                attempt.env,
                attempt.taskset,
                attempt.task,
                workspace=attempt.workspace,
                seed=attempt.seed,
                agent=attempt.agent,
                attempt=attempt.number,
            )
    except (InfraError, OSError) as error:
        failed = Trajectory(
            id=uuid.uuid4().hex,
            env=attempt.env.id,
            task=attempt.task.id,
            task_hash=attempt.task.content_hash(),
            agent=attempt.agent,
            workspace=attempt.workspace,
            verdict=Verdict(reward=None, status="infra_error"),
            error=cause(error),
        )
        return _finished(failed, attempt, started, clock)
    try:
        verdict, error_text = await _act_and_grade(episode, attempt.scaffold, clock)
        record = _record(episode, attempt, verdict, error_text)
        return _finished(record, attempt, started, clock)
    finally:
        await _close(episode)


async def _act_and_grade(
    episode: Episode, scaffold: Scaffold, clock: _Clock
) -> tuple[Verdict, str | None]:
    agent_error: str | None = None
    stop: Stop = "exited"
    try:
        with clock.phase("agent"):
            left = None if episode.deadline is None else max(0.0, episode.deadline - time.time())
            limit = asyncio.timeout(left)
            try:
                async with limit:
                    await scaffold.run(episode)
            except TimeoutError as error:
                if limit.expired():
                    stop = "deadline"
                else:
                    agent_error = cause(error)
            except (InfraError, VerifierError):
                raise
            # A scaffold is anybody's program: whatever it raises is the agent's own failure.
            except Exception as error:
                agent_error = cause(error)
        with clock.phase("grade"):
            verdict = await episode.submit(stop)
    except (InfraError, OSError) as error:
        return _failure("infra_error", stop), cause(error)
    except VerifierError as error:
        return _failure("verifier_error", stop), cause(error)
    if agent_error is not None and verdict.status == "ok":
        verdict = verdict.model_copy(update={"status": "agent_error"})
    return verdict, agent_error


def _failure(status: Failure, stop: Stop) -> Verdict:
    return Verdict(reward=None, status=status, stop=stop)


def cause(error: BaseException) -> str:
    """``Type: message``, with the errors it came from."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    under = error.__cause__
    return text if under is None else f"{text} (from {cause(under)})"


def _record(episode: Episode, attempt: Attempt, verdict: Verdict, error: str | None) -> Trajectory:
    if verdict.graded:
        record = episode.trajectory()
        return record.model_copy(update={"verdict": verdict, "error": error or record.error})
    return Trajectory(
        id=episode.id,
        env=attempt.env.id,
        task=attempt.task.id,
        task_hash=attempt.task.content_hash(),
        agent=attempt.agent,
        workspace=episode.workspace.kind,
        verdict=verdict,
        error=error,
    )


def _finished(record: Trajectory, attempt: Attempt, started: str, clock: _Clock) -> Trajectory:
    own: dict[str, Any] = {
        "agent": attempt.agent,
        "model": attempt.model,
        "attempt": attempt.number,
        "seed": attempt.seed,
        "started": started,
        "seconds": {**record.seconds, **clock.seconds},
    }
    return record.model_copy(update=own)


async def _close(episode: Episode) -> None:
    closing = asyncio.ensure_future(episode.close())
    try:
        await asyncio.wait_for(asyncio.shield(closing), CLOSE_SECONDS)
    except asyncio.CancelledError:
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        raise
    except (TimeoutError, InfraError, OSError) as error:
        warnings.warn(f"a box could not be removed: {cause(error)}", RuntimeWarning, stacklevel=2)
