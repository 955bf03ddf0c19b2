"""``tool-worlds``: tools of invented names and call formats, one call a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from m2gym.core.task import Taskset
from m2gym.core.tools import Tool
from m2gym.envs.catalog import EnvEntry

if TYPE_CHECKING:
    from m2gym.envs.episode import WorkspaceEpisode


def world_tools(episode: WorkspaceEpisode) -> list[Tool]:
    """``call``, which ends the episode with what the world answers."""
    from m2gym.tasksets.tool_worlds.taskset import RESPONSE, questions_of
    from m2gym.tasksets.tool_worlds.world import BROKEN

    world = questions_of(episode.task).world()

    async def call(text: str) -> str:
        """Write a call as this world writes them; what it answers is the episode's answer."""
        told = world.run(text)
        answer = BROKEN if told is None else told
        await episode.workspace.write(RESPONSE, answer.encode())
        await episode.submit()
        return answer

    return [Tool(call)]


def _tasks(**settings: Any) -> Taskset:
    from m2gym.tasksets.tool_worlds.taskset import tool_worlds

    return tool_worlds(**settings)


ENTRY = EnvEntry(
    "tool-worlds",
    _tasks,
    "tools of invented names and call formats, to be learnt from examples in the context",
    tools=world_tools,
)
