"""One episode, from an open box to a `Trajectory`: where every error is attributed, once.

    open ──► scaffold.run within the deadline ──► submit (grade) ──► Trajectory ──► close

| what happens | status | reward |
|---|---|---|
| the scaffold ends, or submits, or a limit ends it | ok (or forged) | the verdict's |
| the scaffold is still running at the deadline | ok, stop ``deadline`` | the verdict's |
| the scaffold raises | agent_error | the verdict's |
| the model's budget is used up | ok, stop ``tokens``, ``cost`` or ``context`` | the verdict's |
| the model does not answer, or had answered no call by the deadline | infra_error | none |
| a box, a download or a disk fails | infra_error | none |
| grading itself fails | verifier_error | none |

Of a task in stages the scaffold is run for each stage in turn, unless it went on by itself; a limit
of ours other than a stage's deadline ends all.

`InputError` while the episode is opened (a missing capability, a wrong option) is the caller's
mistake and is raised.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from m2gym.core.errors import BudgetError, InfraError, ModelError, VerifierError
from m2gym.core.protocols import Model, Scaffold
from m2gym.core.task import Mount, PreparedTask, Task, Taskset
from m2gym.core.trajectory import Trajectory
from m2gym.core.verdict import Stop, Verdict
from m2gym.core.waiting import Waiting
from m2gym.envs.catalog import EnvEntry
from m2gym.envs.episode import WorkspaceEpisode, open_episode
from m2gym.models.budget import Budget
from m2gym.models.session import RecordedSession
from m2gym.rewards.exported import Exported
from m2gym.rollout.gated_model import GatedModel
from m2gym.rollout.gates import Gates
from m2gym.rollout.limits import EpisodeLimits, StartTimeoutError, cause_word
from m2gym.rollout.sessions import open_session, recorded

CLOSE_SECONDS = 30.0
"""How long removing a box may take before it is given up with a warning; the project's choice."""

CANCEL_SECONDS = 10.0
"""How long an agent may take to end after its deadline; the project's choice."""

NO_ANSWER = frozenset({"cancelled", "network", "server", "timeout", "rate_limit", "broken"})
"""Causes of calls that ended without an answer by no fault of the agent."""

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
    answers: Model | None = None
    """The model itself; each episode has a session over it."""
    budget: Budget | None = None
    mounts: tuple[Mount, ...] = ()
    """What the scaffold needs in its box."""
    limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    """Bounds in the place of the task's own."""
    gates: Gates | None = None
    """The run's limits on what happens at once."""
    keep: Callable[[str, PreparedTask, Exported], None] | None = None
    """Given the episode's id, its task and the artifacts, before they are judged."""


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 6)

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count ``seconds`` of one phase as the other's."""
        self.seconds[source] = round(max(0.0, self.seconds[source] - seconds), 6)
        self.seconds[target] = round(self.seconds.get(target, 0.0) + seconds, 6)


async def run_episode(attempt: Attempt) -> Trajectory:
    """One episode; the box is always closed, also when the caller is cancelled.

    ``seconds`` has the phases ``start`` (files at hand and box open), ``agent`` and ``grade``;
    ``waited`` what of them (and before) was waiting for a turn at the run's gates or the model's.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="milliseconds"), _Clock()
    async with _box_place(attempt.gates, clock.waiting):
        try:
            with clock.phase("start"):
                episode = await _open(attempt)
        except (InfraError, OSError) as error:
            return never_ran(
                attempt,
                error,
                started=started,
                seconds=clock.seconds,
                waited=clock.waiting.totals(),
            )
        try:
            _place_limits(episode, attempt, clock.waiting)
            answers = attempt.answers
            if answers is not None and attempt.gates is not None:
                answers = GatedModel(answers, attempt.gates.model_calls, clock.waiting)
            session = open_session(answers, episode, attempt.scaffold, attempt.budget)
            episode.session = session
            judged = await _act_and_grade(episode, attempt, clock, session)
            own: dict[str, Any] = {
                "task_hash": attempt.task.content_hash(),
                "verdict": judged.verdict,
                "error": judged.error,
                "cause": judged.cause,
                "started": started,
                "seconds": clock.seconds,
                "waited": clock.waiting.totals(),
                **recorded(session),
            }
            return episode.trajectory().model_copy(update=own)
        finally:
            await _close(episode)


async def _open(attempt: Attempt) -> WorkspaceEpisode:
    try:
        async with asyncio.timeout(attempt.limits.start) as clock:
            return await open_episode(
                attempt.env.id,
                attempt.taskset,
                attempt.limits.apply(attempt.task),
                workspace=attempt.workspace,
                seed=attempt.seed,
                agent=attempt.agent,
                model=attempt.model,
                attempt=attempt.number,
                mounts=attempt.mounts,
                **({} if attempt.env.tools is None else {"tools": attempt.env.tools}),
            )
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise StartTimeoutError(
            f"the box was not open after {attempt.limits.start:g} s (limit `start`)"
        ) from error


@asynccontextmanager
async def _box_place(gates: Gates | None, clock: Waiting) -> AsyncIterator[None]:
    if gates is None:
        yield
        return
    with clock.time("box"):
        await gates.boxes.acquire()
    try:
        with clock.time("box"):
            await gates.creations.wait()
        yield
    finally:
        gates.boxes.release()


def _place_limits(episode: WorkspaceEpisode, attempt: Attempt, clock: Waiting) -> None:
    gates, keep = attempt.gates, attempt.keep
    if gates is not None:

        @asynccontextmanager
        async def place() -> AsyncIterator[None]:
            with clock.time("grader"):
                await gates.graders.acquire()
            try:
                yield
            finally:
                gates.graders.release()

        episode.grading_place = place
    if keep is not None:
        episode.keep = lambda exported: keep(episode.id, episode.prepared, exported)


@dataclass(frozen=True)
class _Judged:
    verdict: Verdict
    error: str | None = None
    cause: str | None = None


async def _act_and_grade(
    episode: WorkspaceEpisode,
    attempt: Attempt,
    clock: _Clock,
    session: RecordedSession | None,
) -> _Judged:
    stop: Stop = "exited"
    agent_error = None
    try:
        while True:
            begun_in = episode.prepared
            with clock.phase("agent"):
                stop, acting = await _act(episode, attempt, clock, session)
                if stop == "deadline":
                    _check_answered(session)
                if session is not None and session.stop is not None and stop == "exited":
                    stop = session.stop
                agent_error = agent_error or _raised(acting)
            if episode.may_be_worked_on(begun_in) and stop == "exited":
                continue
            with clock.phase("grade"):
                submitted_before = episode.verdict is not None
                verdict = await episode.submit(stop)
            if episode.done:
                break
        if session is not None:
            session.end("the episode has ended")
    except (InfraError, OSError) as error:
        return _Judged(_failure("infra_error", stop), cause(error), cause_word(error))
    # The one boundary of an episode: whatever else is raised is the grader's fault, and is told.
    except Exception as error:
        return _Judged(_failure("verifier_error", stop), cause(error), cause_word(error))
    if submitted_before:
        clock.move("agent", "grade", episode.seconds["grade"])
    if agent_error is not None and verdict.status == "ok":
        verdict = verdict.model_copy(update={"status": "agent_error"})
    return _Judged(verdict, agent_error)


async def _act(
    episode: WorkspaceEpisode,
    attempt: Attempt,
    clock: _Clock,
    session: RecordedSession | None,
) -> tuple[Stop, asyncio.Task[None]]:
    """Run the agent until it ends or its time is over: how it ended, and its task."""
    stop: Stop = "exited"
    acting = asyncio.create_task(attempt.scaffold.run(episode))
    try:
        await _until_over(acting, episode, attempt.limits.working, clock.waiting)
        if not acting.done():
            # the deadline bounds the agent, not the grading that it began by submitting in time
            stop = "exited" if episode.grading else "deadline"
            await episode.graded()
    finally:
        acting.cancel()
        await asyncio.wait({acting}, timeout=CANCEL_SECONDS)
        if session is not None and not episode.may_go_on:
            session.end("the episode has ended")
    return stop, acting


async def _until_over(
    acting: asyncio.Task[None], episode: WorkspaceEpisode, working: float | None, clock: Waiting
) -> None:
    """Wait until the agent ends, its deadline comes or its working time is used up."""
    begun, waited = time.monotonic(), clock.seconds("model")
    while not acting.done():
        left = [] if episode.deadline is None else [episode.deadline - time.time()]
        if working is not None:
            waits = clock.seconds("model") - waited
            left.append(working - (time.monotonic() - begun - waits))
        if left and min(left) <= 0:
            return
        await asyncio.wait({acting}, timeout=min(left, default=None))


def _check_answered(session: RecordedSession | None) -> None:
    """`ModelError` where the time ran out while the model had not answered a single call."""
    if session is None or session.completions or not session.faults:
        return
    causes = {fault.cause for fault in session.faults}
    if causes <= NO_ANSWER:
        raise ModelError(
            f"the model had answered none of the agent's calls when its time was over "
            f"({', '.join(sorted(causes))}); is it reachable, and the limit long enough?",
            cause="timeout",
        )


def _raised(acting: asyncio.Task[None]) -> str | None:
    """The agent's own failure; failures of boxes and of grading are raised."""
    if not acting.done() or acting.cancelled():
        return None
    error = acting.exception()
    if error is None or isinstance(error, BudgetError):
        return None
    blameless = next((e for e in _roots(error) if isinstance(e, (InfraError, VerifierError))), None)
    if blameless is not None:
        raise blameless
    return cause(error)


def _roots(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and the members of groups."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _roots(member)
    if error.__cause__ is not None:
        yield from _roots(error.__cause__)


def never_ran(attempt: Attempt, error: BaseException, **known: Any) -> Trajectory:
    """The record of an episode that infrastructure kept from running; ``known``: further fields."""
    return Trajectory(
        id=uuid.uuid4().hex,
        env=attempt.env.id,
        task=attempt.task.id,
        task_hash=attempt.task.content_hash(),
        agent=attempt.agent,
        model=attempt.model,
        attempt=attempt.number,
        seed=attempt.seed,
        workspace=attempt.workspace,
        verdict=Verdict(reward=None, status="infra_error"),
        error=cause(error),
        cause=cause_word(error),
        **known,
    )


def _failure(status: Failure, stop: Stop) -> Verdict:
    return Verdict(reward=None, status=status, stop=stop)


def cause(error: BaseException) -> str:
    """``Type: message``, with the errors it came from."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    under = error.__cause__
    return text if under is None else f"{text} (from {cause(under)})"


async def _close(episode: WorkspaceEpisode) -> None:
    closing = asyncio.ensure_future(episode.close())
    try:
        await asyncio.wait_for(asyncio.shield(closing), CLOSE_SECONDS)
    except asyncio.CancelledError:
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        raise
    # A box that cannot be removed must not take the finished record with it.
    except Exception as error:
        warnings.warn(f"a box could not be removed: {cause(error)}", RuntimeWarning, stacklevel=2)
