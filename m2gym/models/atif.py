"""Trajectories in Harbor's Agent Trajectory Interchange Format (ATIF), version 1.8.

The document's steps are the longest line of the main conversation; every other line of the token
tree (a title, a sub-agent, a history before it was rewritten) is embedded as a sub-agent's
trajectory, its shared beginning marked as copied. What ATIF has no field for stands in ``extra``.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Sequence
from typing import Any

from m2gym.core.trajectory import Completion, Step, Trajectory
from m2gym.models.lines import Line, lines
from m2gym.models.messages import Message
from m2gym.models.tokens import full_prompt

VERSION = "ATIF-v1.8"
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
Object = dict[str, Any]


def to_atif(
    trajectory: Trajectory, *, agent_version: str = "unknown", prompts: bool = False
) -> Object:
    """The trajectory as an ATIF document.

    Args:
        trajectory: an episode, with or without recorded model calls.
        agent_version: for the field that ATIF demands and m2gym does not record.
        prompts: put each call's whole prompt ids in its metrics: their sum grows with the square
            of the turns. Else each step's ``extra`` has the ids after its parent.
    """
    completions = trajectory.completions
    document: Object = {
        "schema_version": VERSION,
        "session_id": trajectory.id,
        "trajectory_id": trajectory.id,
        "agent": _agent(trajectory, agent_version, None),
        "extra": {"m2gym": _about(trajectory)},
    }
    if not completions:
        document["steps"] = _acted(trajectory)
    else:
        found = lines(completions)
        main = max((line for line in found if line.main), key=lambda line: len(line.completions))
        document["agent"] = _agent(trajectory, agent_version, completions[main.completions[0]])
        document["steps"] = _said(completions, main, set(), prompts)
        told = set(main.completions)
        others = []
        for n, line in enumerate(line for line in found if line is not main):
            others.append(
                {
                    "schema_version": VERSION,
                    "session_id": trajectory.id,
                    "trajectory_id": f"{trajectory.id}/line-{n + 1}",
                    "agent": _agent(trajectory, agent_version, completions[line.completions[0]]),
                    "steps": _said(completions, line, told, prompts),
                    "extra": {"m2gym": {"line": "main" if line.main else "auxiliary"}},
                }
            )
            told |= set(line.completions)
        if others:
            document["subagent_trajectories"] = others
    used = trajectory.usage
    document["final_metrics"] = {
        "total_prompt_tokens": used.prompt_tokens,
        "total_completion_tokens": used.completion_tokens,
        "total_cost_usd": used.cost_usd,
        "total_steps": len(document["steps"]),
    }
    return document


def _about(trajectory: Trajectory) -> Object:
    keys = {
        "env",
        "task",
        "task_hash",
        "attempt",
        "seed",
        "workspace",
        "started",
        "error",
        "verdict",
    }
    return trajectory.model_dump(mode="json", include=keys)


def _agent(trajectory: Trajectory, version: str, root: Completion | None) -> Object:
    out: Object = {"name": trajectory.agent, "version": version}
    model = trajectory.model or (root.model if root else None)
    if model:
        out["model_name"] = model
    if root is not None and root.tools:
        out["tool_definitions"] = list(root.tools)
    return out


def _said(
    completions: Sequence[Completion], line: Line, told: set[int], prompts: bool
) -> list[Object]:
    """Steps of a line; those of completions in ``told`` are marked as copied."""
    steps: list[Object] = []
    for index in line.completions:
        completion = completions[index]
        before = len(steps)
        for message in completion.messages:
            _heard(steps, message)
        step = _answer(completion.message)
        step["llm_call_count"] = 1
        step["metrics"] = _metrics(completions, index, prompts)
        if completion.model:
            step["model_name"] = completion.model
        step["extra"] = {"m2gym": _extra(completion, index, prompts)}
        steps.append(step)
        if index in told:
            for copied in steps[before:]:
                copied["is_copied_context"] = True
    for n, step in enumerate(steps, 1):
        step["step_id"] = n
    return steps


def _heard(steps: list[Object], message: Message) -> None:
    role = message["role"]
    if role == "assistant":
        steps.append({**_answer(message), "llm_call_count": 0})
        steps[-1].pop("reasoning_content", None)
    elif role == "tool" and steps and steps[-1]["source"] == "agent":
        ids = {call["tool_call_id"] for call in steps[-1].get("tool_calls", ())}
        result: Object = {"content": _content(message["content"])}
        if message["tool_call_id"] in ids:
            result["source_call_id"] = message["tool_call_id"]
        steps[-1].setdefault("observation", {"results": []})["results"].append(result)
    else:
        source = "system" if role == "system" else "user"
        steps.append({"source": source, "message": _content(message["content"])})


def _answer(message: Message) -> Object:
    step: Object = {"source": "agent", "message": _content(message["content"])}
    if message.get("reasoning_content"):
        step["reasoning_content"] = message["reasoning_content"]
    if message.get("tool_calls"):
        step["tool_calls"] = [_call(call, n) for n, call in enumerate(message["tool_calls"])]
    return step


def _call(call: Object, n: int) -> Object:
    id = call["id"] or f"call_{n}"
    if call["type"] == "custom":
        arguments: Any = {"input": call["custom"]["input"]}
        return {
            "tool_call_id": id,
            "function_name": call["custom"]["name"],
            "arguments": arguments,
            "extra": {"free_form": True},
        }
    function = call["function"]
    out: Object = {"tool_call_id": id, "function_name": function["name"]}
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        out["extra"] = {"malformed": True}
        arguments = {"arguments": function["arguments"]}
    return {**out, "arguments": arguments}


def _metrics(completions: Sequence[Completion], index: int, prompts: bool) -> Object:
    completion = completions[index]
    used = completion.usage
    out: Object = {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "cost_usd": used.cost_usd,
    }
    if completion.response_ids:
        out["completion_token_ids"] = list(completion.response_ids)
        if prompts:
            out["prompt_token_ids"] = full_prompt(completions, index)
    if completion.logprobs:
        out["logprobs"] = list(completion.logprobs)
    return out


def _extra(completion: Completion, index: int, prompts: bool) -> Object:
    keys = {"parent", "finish_reason", "drift", "sampling"}
    out: Object = {"completion": index, **completion.model_dump(mode="json", include=keys)}
    if completion.prompt_ids and not prompts:
        out["prompt_ids_after_parent"] = list(completion.prompt_ids)
    if completion.weight_versions:
        out["weight_versions"] = list(completion.weight_versions)
    for key in ("malformed", "hosted"):
        if said := completion.message.get(key):
            out[key] = said
    return out


def _acted(trajectory: Trajectory) -> list[Object]:
    """Steps of an episode without model calls: what was done in the environment."""
    steps = [_action(step, n) for n, step in enumerate(trajectory.steps, 1)]
    if not steps:
        nothing = f"{trajectory.agent} did nothing in task {trajectory.task}"
        steps = [{"step_id": 1, "source": "system", "message": nothing}]
    return steps


def _action(step: Step, n: int) -> Object:
    id, action = f"call_{n}", step.action
    if isinstance(action, str):
        name, arguments = "bash", {"command": action}
    else:
        name, arguments = str(action.get("name", "")), action.get("arguments") or {}
    return {
        "step_id": n,
        "source": "agent",
        "message": "",
        "tool_calls": [{"tool_call_id": id, "function_name": name, "arguments": arguments}],
        "observation": {"results": [{"source_call_id": id, "content": step.observation}]},
        "llm_call_count": 0,
        "extra": {"m2gym": {"reward": step.reward, "seconds": step.seconds}},
    }


def _content(content: str | list[Object]) -> str | list[Object]:
    if isinstance(content, str):
        return content
    return [_part(block) for block in content]


def _part(block: Object) -> Object:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    url = block["image_url"]["url"]
    if url.startswith("data:"):
        kind = url[5:].partition(";")[0].partition(",")[0]
    else:
        kind = mimetypes.guess_type(url.partition("?")[0])[0] or ""
    if kind not in IMAGES:
        return {"type": "text", "text": f"[image {url[:80]}]"}
    return {"type": "image", "source": {"media_type": kind, "path": url}}
