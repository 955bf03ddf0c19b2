"""One attempt at one task: the box, what was done in it, its limits, and the verdict.

open ──► act … act ──► submit ──► verdict          fork(n): the same from here, n times
             │  steps or deadline reached: submitted for you, graded all the same
"""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial

from m2gym.core.errors import EpisodeOverError, InfraError, InputError
from m2gym.core.protocols import Action, Observation, Session
from m2gym.core.task import Mount, PreparedTask, Task, Taskset
from m2gym.core.tools import Tool, Toolbox, ToolCall, ToolSchema
from m2gym.core.trajectory import Step, Trajectory, Usage
from m2gym.core.verdict import Stop, Verdict
from m2gym.core.workspace import Shell, Workspace
from m2gym.envs.observation import cut_middle, notes
from m2gym.envs.stages import Stages, lay_out
from m2gym.envs.tools import AGENT_ERRNOS, encode, workspace_tools
from m2gym.rewards import check_rewards, grade
from m2gym.rewards.exported import Exported
from m2gym.workspaces import make_workspace

OUTPUT_FOLDER = "/tmp/m2gym-output"
"""Where the whole of an output that was cut lies in the box."""

ToolFactory = Callable[["WorkspaceEpisode"], list[Tool]]


class WorkspaceEpisode:
    """An episode in a started box; made by `open_episode`. See `m2gym.core.protocols.Episode`."""

    def __init__(
        self,
        prepared: PreparedTask,
        workspace: Workspace,
        *,
        env: str,
        agent: str = "",
        model: str | None = None,
        seed: int | None = None,
        attempt: int = 0,
        deadline: float | None = None,
        parent: str | None = None,
        tools: ToolFactory = workspace_tools,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.plan, self.workspace = prepared, workspace
        self.stages = Stages(prepared) if prepared.stages else None
        """The stages of a task that has some."""
        self.prepared = self.stages.stage.prepared if self.stages else prepared
        """The task as it is now: of a task in stages the present stage."""
        self.env, self.agent, self.model = env, agent, model
        self.seed, self.attempt, self.parent = seed, attempt, parent
        self.deadline = deadline
        self.seconds: dict[str, float] = {}
        self.session: Session | None = None
        """The model session, when the agent calls a model through us."""
        self.grading_place: Callable[[], AbstractAsyncContextManager[object]] = nullcontext
        """Held while the episode is graded: a driver's limit on graders."""
        self.keep: Callable[[Exported], None] | None = None
        """Given the artifacts before they are judged; see `m2gym.rewards.verifier.grade`."""
        self._tool_factory = tools
        self._toolbox = Toolbox(tools(self))
        self._steps: list[Step] = []
        self._shown_chars = 0
        self._noted = self._stage_begun = 0
        self._performing = False
        self._shell: Shell | None = None
        self._verdict: Verdict | None = None
        self._grading = asyncio.Lock()
        self._started = datetime.now(UTC)
        self._closed = False

    @property
    def task(self) -> Task:
        """The task attempted."""
        return self.prepared.task

    @property
    def tools(self) -> list[ToolSchema]:
        """Schemas of the tools an action may call."""
        return self._toolbox.schemas

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was done so far."""
        return tuple(self._steps)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, once there is one."""
        return self._verdict

    @property
    def grading(self) -> bool:
        """Whether the verdict is being made right now."""
        return self._grading.locked()

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return self._verdict is not None or self._closed

    @property
    def may_go_on(self) -> bool:
        """Whether another stage may follow the present one."""
        return self.stages is not None and not self.done and not self.stages.last

    @property
    def first_observation(self) -> str:
        """The instruction, where the files lie, and how much may be used."""
        limits = self.task.limits
        allowed = []
        if limits.steps is not None:
            allowed.append(f"{limits.steps} actions")
        if limits.seconds is not None:
            told = "" if self.stages else " (the time it ends: $M2GYM_DEADLINE)"
            allowed.append(f"{limits.seconds:g} seconds{told}")
        budget = f"You have {' and '.join(allowed)}. " if allowed else ""
        return (
            f"{self.task.instruction.rstrip()}\n\n"
            f"The files are in {self.prepared.workspace.workdir}. {budget}"
            "An action is a shell command or a tool call; submit when you are done."
        )

    async def act(self, action: Action) -> Observation:
        """Do one action; the last one a limit allows also ends and grades the episode.

        Raises:
            EpisodeOverError: the episode has ended.
            InputError: the action is malformed; the episode goes on as if it was not given.
            InfraError: the box failed.
        """
        if self.done:
            raise EpisodeOverError("the episode is over; reset the environment to begin another")
        call = _parse(action)
        if self._time_left() <= 0:
            return await self._end("deadline", "the deadline has passed")
        begun, before = time.monotonic(), self.prepared
        self._performing = True
        try:
            text, info = await self._perform(call)
        finally:
            self._performing = False
        if self.prepared is not before:
            text = f"{text}\n\n{self.first_observation}"
        self._steps.append(
            Step(action=action, observation=text, seconds=time.monotonic() - begun, info=info)
        )
        if self._verdict is not None:
            return Observation(text, self._verdict.reward or 0.0, True, self._verdict.stop, info)
        if self._time_left() <= 0:
            return await self._end("deadline", text)
        self._shown_chars += len(text)
        most = self.task.limits.total_output_chars
        if most is not None and self._shown_chars >= most:
            return await self._end("output", text)
        most = self.task.limits.steps
        if most is not None and len(self._steps) - self._noted >= most:
            return await self._end("steps", text)
        return Observation(text, info=info)

    async def run_command(self, command: str) -> str:
        """Run a command in the episode's shell and give what the agent sees of it."""
        text, _ = await self._run_command(command)
        return text

    def note(
        self, action: Action, observation: str, info: dict[str, object], seconds: float = 0.0
    ) -> None:
        """Record what a scaffold did outside of `act`: a launch, a change of its context.

        It counts towards no limit; the text is cut like an observation.
        """
        text = cut_middle(observation, self.task.limits.observation_chars, None)
        self._steps.append(Step(action=action, observation=text, seconds=seconds, info=info))
        self._noted += 1

    async def submit(self, stop: Stop = "submitted") -> Verdict:
        """End the episode and grade it; once graded, the same verdict again.

        Of a task in stages the present stage ends: its verdict is given, and where the next begins,
        the episode is not `done`.

        Raises:
            InfraError: a box failed; grading may be tried again.
            VerifierError: the grading itself failed.
        """
        async with self._grading:
            if self._verdict is None:
                if self._closed:
                    raise EpisodeOverError("the episode was closed without being submitted")
                begun = time.monotonic()
                async with self.grading_place():
                    verdict = await grade(
                        self.prepared,
                        self.workspace,
                        trajectory=self.steps,
                        stop=stop,
                        make_box=partial(make_workspace, kind=self.workspace.kind),
                        keep=self.keep,
                        goes_on=self.may_go_on and stop != "deadline",
                    )
                graded = time.monotonic() - begun
                self.seconds["grade"] = self.seconds.get("grade", 0.0) + graded
                if self.stages is None:
                    self._verdict = verdict
                else:
                    self._verdict = self.stages.take(verdict, stop)
                    if self._verdict is None:
                        await self._next_stage(self.stages)
                        return verdict
            return self._verdict

    async def _next_stage(self, stages: Stages) -> None:
        self.prepared = stages.stage.prepared
        self._stage_begun = self._acted + (1 if self._performing else 0)
        await lay_out(self.workspace, self.prepared, stages.stage)
        limit = self.task.limits.seconds
        self.deadline = None if limit is None else time.time() + limit

    def may_be_worked_on(self, before: PreparedTask) -> bool:
        """Whether a stage has begun since ``before`` was the present one, and nothing was done."""
        return not self.done and self.prepared is not before and self._stage_begun == self._acted

    @property
    def _acted(self) -> int:
        return len(self._steps) - self._noted

    async def graded(self) -> None:
        """Wait for the grading that is under way, if any."""
        async with self._grading:
            return

    async def fork(self, n: int) -> list[WorkspaceEpisode]:
        """``n`` episodes that go on from this one's files; shells and processes begin anew."""
        if n < 1:
            raise InputError(f"fork needs at least one, got {n}")
        if self.done:
            raise EpisodeOverError("an ended episode cannot be forked")
        children = []
        for box in await self.workspace.fork(n):
            child = WorkspaceEpisode(
                self.plan,
                box,
                env=self.env,
                agent=self.agent,
                model=self.model,
                seed=self.seed,
                attempt=self.attempt,
                deadline=self.deadline,
                parent=self.id,
                tools=self._tool_factory,
            )
            if self.stages is not None:
                child.stages, child.prepared = self.stages.forked(), self.prepared
            child._steps = list(self._steps)
            child._shown_chars, child._noted = self._shown_chars, self._noted
            child.seconds = dict(self.seconds)
            if self.session is not None:
                child.session = self.session.fork(child.id)
            children.append(child)
        return children

    async def close(self) -> None:
        """Stop the box; idempotent."""
        self._closed = True
        await self.workspace.stop()

    def trajectory(self, verdict: Verdict | None = None, error: str | None = None) -> Trajectory:
        """The record so far; ``verdict`` stands in when the episode was not graded."""
        judged = self._verdict or verdict
        if judged is None:
            judged = Verdict(reward=None, status="cancelled")
        completions = tuple(self.session.completions) if self.session else ()
        return Trajectory(
            id=self.id,
            env=self.env,
            task=self.task.id,
            task_hash=self.plan.task.content_hash(),
            agent=self.agent,
            model=self.model,
            attempt=self.attempt,
            seed=self.seed,
            workspace=self.workspace.kind,
            started=self._started.isoformat(timespec="seconds"),
            seconds=self.seconds,
            completions=completions,
            steps=self.steps,
            usage=Usage(
                prompt_tokens=sum(c.usage.prompt_tokens for c in completions),
                completion_tokens=sum(c.usage.completion_tokens for c in completions),
                cost_usd=sum(c.usage.cost_usd for c in completions),
            ),
            verdict=judged,
            error=error,
            parent=self.parent,
        )

    async def _perform(self, call: str | ToolCall) -> tuple[str, dict[str, object]]:
        if isinstance(call, str):
            return await self._run_command(call)
        if call.name == "bash":
            arguments = self._toolbox.get("bash").bind(call.arguments)
            return await self._run_command(arguments["command"])
        tool = self._toolbox.get(call.name)
        result = tool.function(**tool.bind(call.arguments))
        text = str(await result if inspect.isawaitable(result) else result)
        return await self._shown(text), {"tool": call.name}

    async def _run_command(self, command: str) -> tuple[str, dict[str, object]]:
        if "\0" in command:
            raise InputError("a shell command cannot hold a NUL character")
        encode(command)
        if self._shell is None:
            self._shell = await self.workspace.shell()
        timeout = min(self.task.limits.exec_seconds, max(self._time_left(), 0.1))
        result = await self._shell.run(command, timeout=timeout)
        text = await self._shown(result.output)
        note = notes(result, timeout)
        if note:
            text = f"{text.rstrip(chr(10))}\n{note}" if text else note
        return text, {"exit_code": result.exit_code}

    async def _shown(self, text: str) -> str:
        limit = self.task.limits.observation_chars
        if len(text) <= limit:
            return text
        whole: str | None = f"{OUTPUT_FOLDER}/{len(self._steps) + 1}.txt"
        try:
            await self.workspace.write(str(whole), text.encode("utf-8", "replace"))
        except OSError as error:
            if error.errno not in AGENT_ERRNOS:
                raise
            whole = None
        return cut_middle(text, limit, whole)

    async def _end(self, stop: Stop, text: str) -> Observation:
        verdict = await self.submit(stop)
        if not self.done:
            return Observation(f"{text}\n\n{self.first_observation}")
        return Observation(text, verdict.reward or 0.0, True, stop)

    def _time_left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.time()


def _parse(action: Action) -> str | ToolCall:
    if isinstance(action, str):
        return action
    if isinstance(action, ToolCall):
        return action
    if isinstance(action, dict) and isinstance(action.get("name"), str):
        arguments = action.get("arguments", {})
        extra = set(action) - {"name", "arguments"}
        if isinstance(arguments, dict) and not extra:
            return ToolCall(name=action["name"], arguments=arguments)
    raise InputError(
        'an action is a shell command (str) or {"name": …, "arguments": {…}}; '
        f"got {type(action).__name__}: {str(action)[:200]!r}"
    )


async def open_episode(
    env: str,
    taskset: Taskset,
    task: Task,
    *,
    workspace: str = "auto",
    seed: int | None = None,
    agent: str = "",
    model: str | None = None,
    attempt: int = 0,
    tools: ToolFactory = workspace_tools,
    mounts: Sequence[Mount] = (),
) -> WorkspaceEpisode:
    """Prepare the task's files, start its box, and give the episode.

    ``mounts`` are shown in the agent's box beside the task's own; no grading box has them.

    Raises:
        InputError: the task's rewards or capabilities do not fit.
        InfraError: a download or the box failed.
    """
    begun = time.monotonic()
    check_rewards(task)
    prepared = await asyncio.to_thread(taskset.prepare, task)
    first = prepared.stages[0].prepared.task if prepared.stages else task
    limit = first.limits.seconds
    deadline = None if limit is None else time.time() + limit
    variables = dict(prepared.workspace.env)
    if deadline is not None and not prepared.stages:
        variables["M2GYM_DEADLINE"] = str(int(deadline))
    spec = prepared.workspace
    own = {"env": variables, "mounts": (*spec.mounts, *mounts)}
    box = make_workspace(spec.model_copy(update=own), workspace)
    try:
        await box.start()
        await lay_out(box, prepared, prepared.stages[0] if prepared.stages else None)
    except BaseException:
        await box.stop()
        raise
    episode = WorkspaceEpisode(
        prepared,
        box,
        env=env,
        agent=agent,
        model=model,
        seed=seed,
        attempt=attempt,
        deadline=deadline,
        tools=tools,
    )
    episode.seconds["start"] = time.monotonic() - begun
    return episode


__all__ = ["OUTPUT_FOLDER", "InfraError", "ToolFactory", "WorkspaceEpisode", "open_episode"]
