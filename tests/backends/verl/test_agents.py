"""A released command-line agent learns under verl: its own process in a box, HTTP to the gateway.

m2-nano's context is 2,048 tokens, so the agent is told to be short: Claude Code with a system
prompt of two words and no tools asks with 176 tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m2gym.core.errors import DownloadError
from tests.backends.verl import words
from tests.backends.verl.needs import config, verl_here
from tests.backends.verl.processes import gone, ray_processes
from tests.conftest import require

SHORT = ["--bare", "--system-prompt", "You answer.", "--tools", ""]
STEPS = 3


@pytest.mark.verl
@pytest.mark.timeout(2400)
def test_a_third_party_agent_is_trained(
    bwrap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verl_here()
    import m2gym
    from m2gym.scaffolds.blackbox.claude import ClaudeCode

    try:
        ClaudeCode().install()
    except DownloadError as error:
        require("registry", False, f"Claude Code needs a package registry: {error}")
    words.install(tmp_path / "package", monkeypatch)
    before = ray_processes()
    rows: list[dict[str, Any]] = []
    cfg = config(
        tmp_path / "run",
        env={"id": "words"},
        agent={"id": "claude-code", "arguments": SHORT},
        train={"steps": STEPS, "groups": 2, "group_size": 4, "max_tokens": 48, "lr": 2e-3},
        algorithm={"id": "grpo", "schedule": {"lag": 0}},
    )
    result = m2gym.train(cfg, told=rows.append)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert row["episodes"] + row["masked_episodes"] == 8
        assert row["episodes"] >= 6, row.get("masked_why")
        assert row["completions"] >= row["episodes"], "each episode asked the policy"
    assert rows[0]["reward_std"] > 0
    assert rows[0]["grad_norm"] > 0
    assert rows[0]["engine_difference_max"] < 1e-4
    assert result.model.is_dir()
    assert gone(before), "no Ray process is left"
