"""Gemini CLI (Google): a Node program that speaks generateContent only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, NODE, npm_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/node_modules/@google/gemini-cli/bundle/gemini.js"
SIZE_MB = 100

ATTEMPTS = 4
"""How often it asks again after an error; the project's choice (its own: 10)."""


@dataclass
class GeminiCli(BlackBox):
    """Gemini CLI (Google): a Node program that speaks generateContent only."""

    name: str = field(default="gemini-cli", init=False)
    version: str = field(default="0.61.0", init=False)

    flags: ClassVar[Flags] = Flags(("gemini",), thinking_back=True)

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return npm_agent(
            [f"@google/gemini-cli@{self.version}"],
            size_mb=SIZE_MB,
            cache=cache,
            progress=progress,
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        settings = {
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"maxAttempts": ATTEMPTS},
        }
        command = (f"{NODE}/bin/node", PROGRAM, "-y", "-m", endpoint.model)
        env = {
            "GEMINI_API_KEY": endpoint.key,
            "GOOGLE_GEMINI_BASE_URL": endpoint.base_url,
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
        }
        files = {f"{job.home}/.gemini/settings.json": json.dumps(settings)}
        return Launch((*command, *self.arguments, "-p", job.instruction), env, files)
