"""The synchronous Gymnasium environment, run on m2gym's background loop."""

from __future__ import annotations

from typing import Any

import gymnasium

from m2gym.core.background import run_sync
from m2gym.core.errors import InputError
from m2gym.core.protocols import Action
from m2gym.core.spaces import AnyText, CommandOrToolCall
from m2gym.core.tools import Toolbox, ToolSchema
from m2gym.envs.async_env import AsyncEnv, StepResult
from m2gym.envs.episode import WorkspaceEpisode
from m2gym.envs.tools import workspace_tools

_TOOL_SCHEMAS = Toolbox(workspace_tools(None)).schemas  # type: ignore[arg-type]


class WorkspaceEnv(gymnasium.Env[str, Any]):
    """A person's and a trainer's view of an `AsyncEnv`: the same, without ``await``.

    Beyond Gymnasium's methods: `tools`, `submit`, `fork`, and the running `episode`.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, twin: AsyncEnv, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode is None, 'ansi' or 'human', got {render_mode!r}")
        self.twin = twin
        self.render_mode = render_mode
        self.observation_space = AnyText()
        self.action_space = CommandOrToolCall(_TOOL_SCHEMAS)
        self._last = ""

    @property
    def tools(self) -> list[ToolSchema]:
        """Schemas of the tools an action may call."""
        return self.twin.tools if self.twin.episode else list(_TOOL_SCHEMAS)

    @property
    def episode(self) -> WorkspaceEpisode | None:
        """The running episode."""
        return self.twin.episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """See `AsyncEnv.reset`."""
        super().reset(seed=seed)
        observation, info = run_sync(self.twin.reset(seed=seed, options=options))
        self._show(observation)
        return observation, info

    def step(self, action: Action) -> StepResult:
        """See `AsyncEnv.step`."""
        result = run_sync(self.twin.step(action))
        self._show(f"$ {action}\n{result[0]}")
        return result

    def submit(self) -> StepResult:
        """See `AsyncEnv.submit`."""
        result = run_sync(self.twin.submit())
        verdict = result[4].get("verdict")
        self._show(result[0] if verdict is None else f"submitted: {verdict.reward}")
        return result

    def fork(self, n: int) -> list[WorkspaceEnv]:
        """``n`` independent environments that go on from here."""
        children = [WorkspaceEnv(twin, self.render_mode) for twin in run_sync(self.twin.fork(n))]
        for child in children:
            child.spec = self.spec
        return children

    def render(self) -> str | None:
        """The last action and observation, as text (``ansi``) or printed (``human``)."""
        if self.render_mode == "ansi":
            return self._last
        if self.render_mode == "human":
            print(self._last)
        return None

    def close(self) -> None:
        """Stop the box; idempotent."""
        run_sync(self.twin.close())

    def _show(self, text: str) -> None:
        self._last = text
        if self.render_mode == "human":
            self.render()
