"""qwen-code (Alibaba): a Node program that speaks chat, messages and generateContent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, NODE, npm_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/node_modules/@qwen-code/qwen-code/cli-entry.js"
SIZE_MB = 152

SPOKEN = {
    "chat": ("openai", "OPENAI", "/v1"),
    "messages": ("anthropic", "ANTHROPIC", ""),
    "gemini": ("gemini", "GEMINI", ""),
}
"""A dialect's ``--auth-type``, the beginning of its variables, and what follows our address."""

URLS = {"GEMINI": "GOOGLE_GEMINI_BASE_URL"}
"""Variables of the address that are not ``…_BASE_URL``."""


@dataclass
class QwenCode(BlackBox):
    """qwen-code (Alibaba): a Node program that speaks chat, messages and generateContent."""

    name: str = field(default="qwen-code", init=False)
    version: str = field(default="0.24.4", init=False)

    flags: ClassVar[Flags] = Flags(("chat", "messages", "gemini"), thinking_back=True)

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return npm_agent(
            [f"@qwen-code/qwen-code@{self.version}"],
            size_mb=SIZE_MB,
            cache=cache,
            progress=progress,
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        command = [f"{NODE}/bin/node", PROGRAM, "-y"]
        auth, prefix, path = SPOKEN[self.dialect]
        if auth != "openai":
            command += ["--auth-type", auth]
        env = {
            f"{prefix}_API_KEY": endpoint.key,
            URLS.get(prefix, f"{prefix}_BASE_URL"): endpoint.base_url + path,
            f"{prefix}_MODEL": endpoint.model,
        }
        return Launch((*command, *self.arguments, "-p", job.instruction), env)
