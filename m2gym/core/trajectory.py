"""The record of an episode: completions (token ids), steps (actions), and the verdict."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from m2gym.core.notebook import folded, table
from m2gym.core.task import Frozen
from m2gym.core.verdict import Verdict

SCHEMA_VERSION = 2
"""Of run folders; `m2gym.rollout.migrate` reads older ones."""


class Usage(Frozen):
    """What an episode consumed."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


class Completion(Frozen):
    """One (state, action) pair: the prompt a model saw and the tokens it answered.

    ``logprobs`` and ``weight_versions`` have one entry a response token; ``parent`` is the index
    of the completion whose prompt and answer this prompt extends, ``None`` at a root. The whole
    prompt is the parent's whole prompt, its answer, and then ``prompt_ids`` (in messages: its
    ``message``, and then ``messages``); `m2gym.models.tokens` puts them together.
    """

    prompt_ids: tuple[int, ...] = Field((), description="ids after the parent's last token")
    response_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    weight_versions: tuple[int, ...] = ()
    parent: int | None = None
    messages: tuple[dict[str, Any], ...] = Field(
        (), description="the prompt's messages after the parent's answer; all of them at a root"
    )
    message: dict[str, Any] = Field(default_factory=dict, description="the answer")
    tools: tuple[dict[str, Any], ...] = Field(
        (), description="offered tools, OpenAI's form; at a root only, others have their root's"
    )
    sampling: dict[str, Any] = Field(
        default_factory=dict, description="how it was sampled, where that was not the default"
    )
    drift: int = Field(
        0,
        ge=0,
        description="tokens of the extended history that this prompt could not repeat as recorded",
    )
    finish_reason: str = Field("stop", description="stop, tool_calls, length or content_filter")
    model: str | None = Field(None, description="what answered")
    usage: Usage = Usage()


class Step(Frozen):
    """One action in the environment and what came of it; ``seconds`` is wall time."""

    action: str | dict[str, Any]
    observation: str
    reward: float = 0.0
    seconds: float = 0.0
    info: dict[str, Any] = Field(default_factory=dict)


class Trajectory(Frozen):
    """Everything of one episode; one JSON line of a run folder."""

    schema_version: int = SCHEMA_VERSION
    id: str
    env: str
    task: str
    task_hash: str
    agent: str
    model: str | None = None
    attempt: int = 0
    seed: int | None = None
    workspace: str = ""
    started: str = Field("", description="ISO 8601, UTC")
    seconds: dict[str, float] = Field(
        default_factory=dict, description="wall time by phase: start, agent, grade"
    )
    waited: dict[str, float] = Field(
        default_factory=dict,
        description="seconds spent waiting for a turn: box (before start), model (within agent), "
        "grader (within grade)",
    )
    completions: tuple[Completion, ...] = ()
    faults: tuple[dict[str, Any], ...] = Field(
        (),
        description="calls of the model that gave no completion: cause, message, status, and the "
        "completion they extended (parent)",
    )
    steps: tuple[Step, ...] = ()
    usage: Usage = Usage()
    verdict: Verdict
    error: str | None = Field(None, description="the cause, when status is not ok")
    cause: str | None = Field(
        None, description="one word for what failed, when infrastructure or the verifier did"
    )
    retries: tuple[dict[str, Any], ...] = Field(
        (),
        description="tries of this episode that infrastructure failed before: cause, error, "
        "seconds, usage",
    )
    parent: str | None = Field(None, description="id of the episode this one was forked from")

    def _repr_html_(self) -> str:
        seconds = ", ".join(f"{phase} {value:.1f} s" for phase, value in self.seconds.items())
        rows = [
            ("task", f"{self.task} (attempt {self.attempt})"),
            ("agent", " · ".join(filter(None, (self.agent, self.model)))),
            ("steps, calls", f"{len(self.steps)}, {len(self.completions)}"),
            ("time", seconds or "–"),
            *((("error", self.error),) if self.error else ()),
        ]
        steps = "".join(
            folded(f"{n}. {str(step.action)[:100]}", step.observation[:2000])
            for n, step in enumerate(self.steps[:50], 1)
        )
        return table(rows) + self.verdict._repr_html_() + steps

    def full_prompt(self, index: int) -> tuple[int, ...]:
        """Every token id that the model saw before it answered completion ``index``."""
        parts: list[tuple[int, ...]] = [self.completions[index].prompt_ids]
        at = self.completions[index].parent
        while at is not None:
            held = self.completions[at]
            parts += (held.response_ids, held.prompt_ids)
            at = held.parent
        return tuple(id for part in reversed(parts) for id in part)
