"""qwen-code (Alibaba): a Node program that speaks chat, and messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, NODE, npm_agent
from m2gym.tasksets.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/node_modules/@qwen-code/qwen-code/cli-entry.js"
SIZE_MB = 152


@dataclass
class QwenCode(BlackBox):
    """qwen-code (Alibaba): a Node program that speaks chat, and messages."""

    name: str = field(default="qwen-code", init=False)
    version: str = field(default="0.24.4", init=False)

    flags: ClassVar[Flags] = Flags(("chat", "messages"), thinking_back=True)

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return npm_agent(
            [f"@qwen-code/qwen-code@{self.version}"],
            size_mb=SIZE_MB,
            cache=cache,
            progress=progress,
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        command = [f"{NODE}/bin/node", PROGRAM, "-y"]
        if self.dialect == "messages":
            command += ["--auth-type", "anthropic"]
            prefix, url = "ANTHROPIC", endpoint.base_url
        else:
            prefix, url = "OPENAI", f"{endpoint.base_url}/v1"
        env = {
            f"{prefix}_API_KEY": endpoint.key,
            f"{prefix}_BASE_URL": url,
            f"{prefix}_MODEL": endpoint.model,
        }
        return Launch((*command, *self.arguments, "-p", job.instruction), env)
