"""Claude Code (Anthropic): a native binary that speaks messages only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, npm_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/node_modules/@anthropic-ai/claude-code/bin/claude.exe"
SIZE_MB = 364


@dataclass
class ClaudeCode(BlackBox):
    """Claude Code (Anthropic): a native binary that speaks messages only."""

    name: str = field(default="claude-code", init=False)
    version: str = field(default="2.1.330", init=False)

    flags: ClassVar[Flags] = Flags(("messages",), thinking_back=True)

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return npm_agent(
            [f"@anthropic-ai/claude-code@{self.version}"],
            size_mb=SIZE_MB,
            cache=cache,
            progress=progress,
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        free = "--dangerously-skip-permissions"
        command = (PROGRAM, "-p", job.instruction, free, "--model", endpoint.model)
        env = {
            "ANTHROPIC_API_KEY": endpoint.key,
            "ANTHROPIC_BASE_URL": endpoint.base_url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",
        }
        return Launch((*command, *self.arguments), env)
