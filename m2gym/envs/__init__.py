"""Gymnasium environments over executable workspaces: tasks × workspace × verifier."""

from m2gym.envs.catalog import EnvEntry, env_entry, make, make_async, make_vec, register
from m2gym.envs.episode import WorkspaceEpisode, open_episode

__all__ = [
    "EnvEntry",
    "WorkspaceEpisode",
    "env_entry",
    "make",
    "make_async",
    "make_vec",
    "open_episode",
    "register",
]
