"""OpenHands CLI: a Python program that speaks chat through LiteLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, pip_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/bin/openhands"
SIZE_MB = 754


@dataclass
class OpenHands(BlackBox):
    """OpenHands CLI: a Python program that speaks chat through LiteLLM."""

    name: str = field(default="openhands", init=False)
    version: str = field(default="1.16.0", init=False)

    flags: ClassVar[Flags] = Flags(("chat",))

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return pip_agent(
            [f"openhands=={self.version}"],
            python="3.12",
            size_mb=SIZE_MB,
            cache=cache,
            progress=progress,
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        command = (PROGRAM, "--headless", "--json", "--override-with-envs")
        env = {
            "LLM_API_KEY": endpoint.key,
            "LLM_BASE_URL": f"{endpoint.base_url}/v1",
            "LLM_MODEL": f"openai/{endpoint.model}",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENHANDS_SUPPRESS_BANNER": "1",
        }
        return Launch((*command, *self.arguments, "-t", job.instruction), env)
