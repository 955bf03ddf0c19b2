"""aider: a Python program that speaks chat through LiteLLM and edits by blocks in its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Flags, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, pip_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

PROGRAM = f"{AGENT}/bin/aider"
SIZE_MB = 666

OPTIONS = (
    "yes-always",
    "no-show-model-warnings",
    "no-show-release-notes",
    "no-check-update",
    "analytics-disable",
    "no-gitignore",
    "no-pretty",
)


@dataclass
class Aider(BlackBox):
    """aider: a Python program that speaks chat through LiteLLM and edits by blocks in its text."""

    name: str = field(default="aider", init=False)
    version: str = field(default="0.86.2", init=False)

    flags: ClassVar[Flags] = Flags(("chat",), side_calls=True, prefix_extending=False, edits="text")

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        return pip_agent(
            [f"aider-chat=={self.version}"],
            python="3.12",
            size_mb=SIZE_MB,
            cache=cache,
            progress=progress,
        )

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        command = [PROGRAM, "--model", f"openai/{endpoint.model}", "--edit-format", "diff"]
        command += [f"--{name}" for name in OPTIONS]
        env = {
            "OPENAI_API_KEY": endpoint.key,
            "OPENAI_API_BASE": f"{endpoint.base_url}/v1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        return Launch((*command, *self.arguments, "--message", job.instruction), env)
