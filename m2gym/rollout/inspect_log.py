"""A run as a log of Inspect (https://inspect.aisi.org.uk), format version 2, in its JSON form.

One sample is one episode: its conversation is the longest line of the main one, other lines stand
in its metadata. What Inspect has no field for (token ids, log-probabilities, the verdict) is kept
in ``metadata["m2gym"]``. An episode without a reward carries an error, as Inspect's own do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from m2gym.core.trajectory import Completion, Trajectory, Usage
from m2gym.models.lines import Line, lines
from m2gym.models.messages import Message
from m2gym.rollout.run import Run
from m2gym.rollout.run_folder import write_parts

Object = dict[str, Any]

LIMITS = {"deadline": "time", "steps": "turn", "tokens": "token", "cost": "cost",
          "context": "context", "output": "custom", "loop": "custom"}  # fmt: skip
"""Our stop → Inspect's kind of limit."""
STOPS = {"length": "max_tokens"}
NO_MODEL = "none/none"
"""Inspect demands a model's name; agents such as ``gold`` call none."""


def write_inspect(run: Run, file: Path) -> int:
    """Write the run's log to ``file`` (Inspect wants the suffix ``.json``); samples written."""
    head = header(run)
    written = 0

    def parts() -> Iterator[str]:
        nonlocal written
        yield json.dumps(head, ensure_ascii=False)[:-1] + ',"samples":['
        for trajectory in run:
            text = json.dumps(sample(trajectory), ensure_ascii=False, default=str)
            yield ("," if written else "") + "\n" + text
            written += 1
        yield "\n]}\n"

    write_parts(file, parts())
    return written


def header(run: Run) -> Object:
    """Everything of the log but its samples."""
    config, summary = run.config, run.summary
    created = run.info.started or datetime.fromtimestamp(0, UTC).isoformat()
    named = config.model or NO_MODEL
    id = hashlib.sha256((config.model_dump_json() + created).encode()).hexdigest()[:22]
    ended, used = created, Usage()
    for trajectory in run:
        ended = max(ended, _times(trajectory).get("completed_at", ended))
        used = _sum(used, trajectory.usage)
    found = summary.estimate
    metrics = {} if found is None else {"mean": found.mean}
    if found is not None and found.interval is not None:
        metrics |= {"lower_95": found.interval[0], "upper_95": found.interval[1]}
    return {
        "version": 2,
        "status": "success" if run.complete else "cancelled",
        "eval": {
            "eval_id": id,
            "run_id": id,
            "created": created,
            "task": config.env,
            "task_id": id,
            "solver": config.agent,
            "solver_args": config.scaffold.get("settings") or {},
            "dataset": {
                "name": config.env,
                "samples": len(config.tasks),
                "sample_ids": list(config.tasks),
            },
            "model": named,
            "config": {"epochs": config.attempts},
            "packages": dict(run.info.versions),
            "metadata": {
                "m2gym": run.info.model_dump(mode="json", exclude={"task_hashes", "versions"})
            },
        },
        "results": {
            "total_samples": len(config.tasks) * config.attempts,
            "completed_samples": summary.graded,
            "scores": [
                {
                    "name": "reward",
                    "scorer": "reward",
                    "scored_samples": summary.graded,
                    "unscored_samples": summary.masked,
                    "metrics": {n: {"name": n, "value": v} for n, v in metrics.items()},
                }
            ],
        },
        "stats": {
            "started_at": created,
            "completed_at": ended,
            "model_usage": {named: _usage(used)},
        },
    }


def sample(trajectory: Trajectory) -> Object:
    """One episode."""
    completions, verdict = trajectory.completions, trajectory.verdict
    found = lines(completions)
    others: list[Line] = []
    if found:
        main = max((line for line in found if line.main), key=lambda line: len(line.completions))
        said = _conversation(completions, main)
        others = [line for line in found if line is not main]
        first = next(n for n, message in enumerate(said) if message["role"] == "assistant")
    else:
        said, first = _acted(trajectory), 0
    named = trajectory.model or NO_MODEL
    own = {"env", "agent", "seed", "workspace", "task_hash", "waited", "faults", "retries",
           "cause", "parent", "seconds"}  # fmt: skip
    about: Object = trajectory.model_dump(mode="json", include=own)
    about["verdict"] = verdict.model_dump(mode="json", exclude={"scores"})
    if completions:
        about["tools"] = list(completions[0].tools)
    if others:
        about["other_conversations"] = [_conversation(completions, line) for line in others]
    out: Object = {
        "id": trajectory.task,
        "epoch": trajectory.attempt + 1,
        "input": said[:first] or f"task {trajectory.task} of {trajectory.env}",
        "target": "",
        "messages": said,
        "output": _output(trajectory, said),
        "scores": _scores(trajectory),
        "metadata": {"m2gym": about},
        "model_usage": {named: _usage(trajectory.usage)} if completions else {},
        "uuid": trajectory.id,
        "turn_count": sum(m["role"] == "assistant" for m in said[first:]),
        **_times(trajectory),
    }
    if not verdict.graded:
        out["error"] = _error(trajectory.error or verdict.status)
    elif trajectory.error:
        about["error"] = trajectory.error
    if trajectory.retries:
        out["error_retries"] = [_error(str(lost.get("error"))) for lost in trajectory.retries]
    if verdict.stop in LIMITS:
        used = {
            "deadline": trajectory.seconds.get("agent", 0.0),
            "steps": len(trajectory.steps),
            "tokens": trajectory.usage.completion_tokens,
            "cost": trajectory.usage.cost_usd,
        }
        out["limit"] = {
            "type": LIMITS[verdict.stop],
            "limit": float(used.get(verdict.stop, 0)),
            "reason": f"m2gym ended the episode: {verdict.stop} (the number is what was used)",
        }
    return out


def _scores(trajectory: Trajectory) -> Object:
    verdict = trajectory.verdict
    if verdict.reward is None:
        return {}
    own: Object = {"status": verdict.status, "stop": verdict.stop, "isolation": verdict.isolation}
    found: Object = {"reward": {"value": verdict.reward, "metadata": own}}
    for name, score in verdict.scores.items():
        found.setdefault(name, {"value": score.value, "metadata": score.evidence})
    return found


def _conversation(completions: Sequence[Completion], line: Line) -> list[Object]:
    said: list[Object] = []
    for index in line.completions:
        completion = completions[index]
        said += [_message(message, "input") for message in completion.messages]
        answer = _message(completion.message, "generate")
        if completion.model:
            answer["model"] = completion.model
        keys = {"prompt_ids", "response_ids", "logprobs", "weight_versions", "parent", "drift",
                "usage"}  # fmt: skip
        own = completion.model_dump(mode="json", include=keys)
        answer["metadata"] = {"m2gym": {"completion": index, **own}}
        said.append(answer)
    names = {call["id"]: call["function"] for m in said for call in m.get("tool_calls", ())}
    for message in said:
        if message["role"] == "tool":
            message["function"] = names.get(message["tool_call_id"])
    return said


def _message(message: Message, source: str) -> Object:
    role = message.get("role", "assistant")
    out: Object = {"role": role, "content": _content(message.get("content") or "")}
    if role == "tool":
        out["tool_call_id"] = message.get("tool_call_id")
    elif role == "assistant":
        out["source"] = source
        if thought := message.get("reasoning_content"):
            text = out["content"]
            rest = [{"type": "text", "text": text}] if isinstance(text, str) else text
            out["content"] = [{"type": "reasoning", "reasoning": thought}, *rest]
        if calls := message.get("tool_calls"):
            out["tool_calls"] = [_call(call, n) for n, call in enumerate(calls)]
    elif role not in ("system", "user"):
        out["role"] = "user"
    return out


def _content(content: str | Sequence[Object]) -> str | list[Object]:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": block["text"]}
        if block["type"] == "text"
        else {"type": "image", "image": block["image_url"]["url"]}
        for block in content
    ]


def _call(call: Object, n: int) -> Object:
    id = call.get("id") or f"call_{n}"
    if call.get("type") == "custom":
        own = call["custom"]
        return {"id": id, "function": own["name"], "arguments": {"input": own["input"]},
                "type": "custom"}  # fmt: skip
    name, text = call["function"]["name"], call["function"]["arguments"] or "{}"
    problem = None
    try:
        arguments = json.loads(text)
        if not isinstance(arguments, dict):
            problem = f"arguments are no object: {text}"
    except ValueError as error:
        problem = f"arguments are no JSON ({error}): {text}"
    if problem is not None:
        arguments = {}
    return {"id": id, "function": name, "arguments": arguments, "parse_error": problem,
            "type": "function"}  # fmt: skip


def _acted(trajectory: Trajectory) -> list[Object]:
    """Actions of an agent that called no model of ours, as calls of tools and their results."""
    said: list[Object] = []
    for n, step in enumerate(trajectory.steps):
        if isinstance(step.action, str):
            name, arguments = "bash", {"command": step.action}
        else:
            name, arguments = str(step.action.get("name", "")), step.action.get("arguments") or {}
        call = {"id": f"call_{n}", "function": name, "arguments": arguments, "type": "function"}
        said.append({"role": "assistant", "content": "", "tool_calls": [call]})
        said.append({"role": "tool", "content": step.observation, "tool_call_id": f"call_{n}",
                     "function": name})  # fmt: skip
    return said


def _output(trajectory: Trajectory, said: Sequence[Object]) -> Object:
    answers = [message for message in said if message["role"] == "assistant"]
    if not trajectory.completions or not answers:
        return {}
    index = answers[-1]["metadata"]["m2gym"]["completion"]
    last = trajectory.completions[index]
    return {
        "model": last.model or trajectory.model or NO_MODEL,
        "choices": [
            {
                "message": answers[-1],
                "stop_reason": STOPS.get(last.finish_reason, last.finish_reason),
            }
        ],
        "usage": _usage(last.usage),
    }


def _usage(used: Usage) -> Object:
    return {
        "input_tokens": used.prompt_tokens,
        "output_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "total_cost": used.cost_usd,
    }


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(**{name: value + getattr(b, name) for name, value in a})


def _error(text: str) -> Object:
    return {"message": text, "traceback": "", "traceback_ansi": ""}


def _times(trajectory: Trajectory) -> Object:
    total = sum(trajectory.seconds.values())
    waited = sum(trajectory.waited.get(name, 0.0) for name in ("model", "grader"))
    out: Object = {"total_time": total, "working_time": max(0.0, total - waited)}
    if trajectory.started:
        ended = datetime.fromisoformat(trajectory.started) + timedelta(seconds=total)
        out |= {"started_at": trajectory.started, "completed_at": ended.isoformat()}
    return out
