"""opencode: a native binary that speaks chat, responses and messages."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, npm_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/node_modules/opencode-ai/bin/opencode.exe"
SIZE_MB = 354

PACKAGES = {
    "chat": "@ai-sdk/openai-compatible",
    "responses": "@ai-sdk/openai",
    "messages": "@ai-sdk/anthropic",
}
"""Its client for each dialect; all of them are in the binary."""

LIMIT = {"context": 128_000, "output": 8_192}
"""What it is told of the model's size, in tokens; the project's choice."""


@dataclass
class OpenCode(BlackBox):
    """opencode: a native binary that speaks chat, responses and messages."""

    name: str = field(default="opencode", init=False)
    version: str = field(default="1.18.33", init=False)

    flags: ClassVar[Flags] = Flags(
        ("chat", "responses", "messages"), thinking_back=True, side_calls=True
    )

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return npm_agent(
            [f"opencode-ai@{self.version}"], size_mb=SIZE_MB, cache=cache, progress=progress
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        provider = {
            "npm": PACKAGES[self.dialect],
            "name": "gateway",
            "options": {"baseURL": f"{endpoint.base_url}/v1", "apiKey": endpoint.key},
            "models": {endpoint.model: {"name": endpoint.model, "reasoning": True, "limit": LIMIT}},
        }
        config = json.dumps({"provider": {"gateway": provider}})
        env = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
        command = (PROGRAM, "run", "-m", f"gateway/{endpoint.model}")
        files = {f"{job.home}/.config/opencode/opencode.json": config}
        return Launch((*command, *self.arguments, job.instruction), env, files)
