"""Codex CLI (OpenAI): a native binary that speaks responses only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, NODE, npm_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/node_modules/@openai/codex/bin/codex.js"
SIZE_MB = 404


@dataclass
class Codex(BlackBox):
    """Codex CLI (OpenAI): a native binary that speaks responses only."""

    name: str = field(default="codex", init=False)
    version: str = field(default="0.169.0", init=False)

    flags: ClassVar[Flags] = Flags(("responses",), thinking_back=True)

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return npm_agent(
            [f"@openai/codex@{self.version}"], size_mb=SIZE_MB, cache=cache, progress=progress
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        config = (
            'model_provider = "gateway"\n'
            "[model_providers.gateway]\n"
            'name = "gateway"\n'
            f'base_url = "{endpoint.base_url}/v1"\n'
            'env_key = "GATEWAY_KEY"\n'
            'wire_api = "responses"\n'
        )
        free = ("--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check")
        command = (f"{NODE}/bin/node", PROGRAM, "exec", *free, "-m", endpoint.model)
        home = f"{job.home}/.codex"
        return Launch(
            (*command, *self.arguments, job.instruction),
            {"GATEWAY_KEY": endpoint.key, "CODEX_HOME": home},
            {f"{home}/config.toml": config},
        )
