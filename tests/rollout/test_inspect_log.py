"""Inspect's log format: what ours holds, and (where Inspect is) that its own reader agrees."""

import json
import os
import subprocess
import sys

import pytest

from m2gym.core.trajectory import Step
from m2gym.core.verdict import Score, Verdict
from m2gym.rollout import load_run
from m2gym.rollout.inspect_log import sample, write_inspect
from m2gym.rollout.run_folder import RunWriter
from m2gym.rollout.run_info import RunConfig, new_info
from tests.conftest import require
from tests.models.test_atif import odd_session, token_session, trajectory

READ = """
import json, sys
from inspect_ai.log import read_eval_log, read_eval_log_samples, read_eval_log_sample
log = read_eval_log(sys.argv[1])
one = read_eval_log_sample(sys.argv[1], id="t", epoch=1)
print(json.dumps({
    "status": log.status, "task": log.eval.task, "solver": log.eval.solver,
    "mean": log.results.scores[0].metrics["mean"].value,
    "used": {k: v.total_tokens for k, v in log.stats.model_usage.items()},
    "one": one.uuid,
    "samples": [{
        "id": [s.id, s.epoch], "roles": [m.role for m in s.messages],
        "calls": [[c.function, c.arguments, c.parse_error is not None] for m in s.messages
                  if m.role == "assistant" for c in m.tool_calls or ()],
        "thought": [p.reasoning for m in s.messages if not isinstance(m.content, str)
                    for p in m.content if p.type == "reasoning"],
        "scores": {k: v.value for k, v in (s.scores or {}).items()},
        "error": s.error and s.error.message, "limit": s.limit and s.limit.type,
        "tokens": sum(u.total_tokens for u in s.model_usage.values()),
    } for s in log.samples],
}))
"""


@pytest.fixture
async def run(tmp_path):
    """Five episodes: token ids, odd messages, a lost one, one without a model, one over time."""
    lost = Verdict(reward=None, status="infra_error")
    late = Verdict(reward=0.5, stop="deadline", scores={"half": Score(value=0.5)})
    steps = [Step(action="ls", observation="a.py"), Step(action={"name": "read"}, observation="x")]
    whole = trajectory(await token_session(), started="2026-01-02T03:04:05.678+00:00")
    records = [
        whole.model_copy(update={"seconds": {"agent": 2.0}, "waited": {"model": 0.5}}),
        trajectory(await odd_session()).model_copy(update={"id": "e2", "attempt": 1}),
        trajectory().model_copy(
            update={"id": "e3", "task": "u", "verdict": lost, "error": "the box died",
                    "retries": ({"cause": "box", "error": "died before"},)}
        ),
        trajectory(steps=steps).model_copy(update={"id": "e4", "task": "u", "attempt": 1}),
        trajectory().model_copy(update={"id": "e5", "task": "v", "verdict": late}),
    ]  # fmt: skip
    config = RunConfig(env="swe", agent="react", model="m", tasks=("t", "u", "v"), attempts=2)
    folder = tmp_path / "run"
    with RunWriter(folder, new_info(config, dict.fromkeys(config.tasks, "h"))) as writer:
        for record in records:
            writer.append(record)
    return load_run(folder)


async def test_a_sample_holds_the_conversation_and_every_token():
    session = await token_session()
    made = sample(trajectory(session, started="2026-01-02T03:04:05.678+00:00"))
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert made["input"] == made["messages"][:1]
    asked, said = made["messages"][1], made["messages"][3]
    assert asked["tool_calls"][0]["arguments"] == {"command": "ls  -la"}
    assert asked["content"][0] == {"type": "reasoning", "reasoning": "I look."}
    assert made["messages"][2]["function"] == asked["tool_calls"][0]["function"]
    kept = said["metadata"]["m2gym"]
    assert tuple(kept["response_ids"]) == session.completions[2].response_ids
    assert len(kept["logprobs"]) == len(kept["response_ids"])
    assert made["metadata"]["m2gym"]["other_conversations"][0][-1]["content"][1]["text"] == (
        "A title"
    )
    assert made["model_usage"]["none/none"]["input_tokens"] == session.usage.prompt_tokens
    assert made["scores"]["reward"]["value"] == 1.0


def test_the_log_says_what_was_not_graded(run, tmp_path):
    file = tmp_path / "log.json"
    assert write_inspect(run, file) == 5
    log = json.loads(file.read_text())
    assert list(log)[-1] == "samples"
    assert log["status"] == "cancelled"  # a task has but one of its two attempts
    assert log["results"]["completed_samples"] == 4
    lost = log["samples"][2]
    assert (lost["scores"], lost["error"]["message"]) == ({}, "the box died")
    assert lost["error_retries"][0]["message"] == "died before"
    assert log["samples"][0]["working_time"] == 1.5
    assert log["samples"][4]["limit"]["type"] == "time"
    assert log["samples"][3]["messages"][0]["tool_calls"][0]["arguments"] == {"command": "ls"}


@pytest.mark.peers
def test_inspects_reader_agrees(run, tmp_path):
    python = os.environ.get("M2GYM_PEERS_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import inspect_ai"], capture_output=True, check=False)
    require("inspect", found.returncode == 0, "M2GYM_PEERS_PYTHON names no Python with inspect_ai")
    file = tmp_path / "log.json"
    write_inspect(run, file)
    done = subprocess.run(
        [python, "-W", "error", "-c", READ, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    used = sum(t.usage.prompt_tokens + t.usage.completion_tokens for t in run)
    assert (read["status"], read["task"], read["solver"]) == ("cancelled", "swe", "react")
    assert read["mean"] == run.score
    assert read["used"] == {"m": used}
    assert read["one"] == "e1"
    tokens, odd, lost, acted, late = read["samples"]
    assert tokens["id"] == ["t", 1]
    assert tokens["calls"] == [["bash", {"command": "ls  -la"}, False]]
    assert tokens["thought"][0] == "I look."
    assert ["patch", {"input": "*** Begin"}, False] in odd["calls"]
    assert ["bash", {}, True] in odd["calls"]
    assert (lost["error"], lost["scores"]) == ("the box died", {})
    assert acted["calls"] == [["bash", {"command": "ls"}, False], ["read", {}, False]]
    assert (late["limit"], late["scores"]) == ("time", {"reward": 0.5, "half": 0.5})
    assert sum(one["tokens"] for one in read["samples"]) == used
