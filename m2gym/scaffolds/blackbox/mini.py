"""mini-swe-agent: a Python program that speaks chat, messages and responses through LiteLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, pip_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/bin/mini"
MCP = "mcp==2.3.0"
"""Without it its LiteLLM fails every call."""
SIZE_MB = 682

ATTEMPTS = 5
"""How often it asks again after an error; the project's choice (its own: without end)."""


@dataclass
class MiniSweAgent(BlackBox):
    """mini-swe-agent: a Python program that speaks chat, messages and responses through LiteLLM."""

    name: str = field(default="mini-swe-agent", init=False)
    version: str = field(default="2.4.6", init=False)

    flags: ClassVar[Flags] = Flags(("chat", "messages", "responses"), thinking_back=True)

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        requirements = [f"mini-swe-agent=={self.version}", MCP]
        return pip_agent(requirements, size_mb=SIZE_MB, cache=cache, progress=progress)

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        env = {
            "MSWEA_CONFIGURED": "true",
            "MSWEA_COST_TRACKING": "ignore_errors",
            "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": str(ATTEMPTS),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        if self.dialect == "messages":
            provider = "anthropic"
            env |= {"ANTHROPIC_API_KEY": endpoint.key, "ANTHROPIC_API_BASE": endpoint.base_url}
        else:
            provider = "openai"
            env |= {"OPENAI_API_KEY": endpoint.key, "OPENAI_API_BASE": f"{endpoint.base_url}/v1"}
        command = [PROGRAM, "-y", "--exit-immediately", "-m", f"{provider}/{endpoint.model}"]
        if self.dialect == "responses":
            command += ["--model-class", "litellm_response"]
        output = f"{job.home}/trajectory.json"
        return Launch((*command, *self.arguments, "-t", job.instruction, "-o", output), env)
