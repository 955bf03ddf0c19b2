"""Environments by id: registering one, and making it bare, asynchronous, or as a vector."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from m2gym import gymnasium_ids
from m2gym.core.errors import InputError
from m2gym.core.registry import ENVS, REWARDS, TASKSETS
from m2gym.core.task import PreparedTask, RewardSpec, Split, Task, Taskset

if TYPE_CHECKING:
    from m2gym.envs.async_env import AsyncEnv, Potential
    from m2gym.envs.env import WorkspaceEnv
    from m2gym.envs.episode import ToolFactory

Rewards = Sequence[str | Callable[..., Any] | RewardSpec] | Mapping[str, float]
Tasks = str | Path | Sequence[Task] | Taskset | Callable[..., Taskset]


TEST_LISTS = ("fail_to_pass", "pass_to_pass")


@dataclass(frozen=True)
class EnvEntry:
    """An environment's recipe: where its tasks come from and, where it says so, their rewards."""

    id: str
    taskset: Callable[..., Taskset]
    description: str = ""
    tools: ToolFactory | None = None
    """The tools of its episodes; the workspace's own when left out."""


class WithRewards:
    """A taskset whose tasks are judged by the environment's rewards instead of their own."""

    def __init__(self, taskset: Taskset, rewards: tuple[RewardSpec, ...]) -> None:
        self._taskset, self._rewards = taskset, rewards
        self.name = taskset.name

    @property
    def progress(self) -> Any:
        """Who is told about the taskset's downloads; ``None`` when it tells nobody."""
        return getattr(self._taskset, "progress", None)

    @progress.setter
    def progress(self, hook: Any) -> None:
        if hasattr(self._taskset, "progress"):
            self._taskset.progress = hook

    def ids(self, split: Split) -> Sequence[str]:
        """Ids of one split."""
        return self._taskset.ids(split)

    def task(self, task_id: str) -> Task:
        """The task judged by the environment's rewards.

        A reward of the ``tests-`` family that has no parameters takes those of the task's own,
        else ``fail_to_pass`` and ``pass_to_pass`` of its metadata.
        """
        task = self._taskset.task(task_id)
        known = {key: task.metadata[key] for key in TEST_LISTS if key in task.metadata}
        tests = next((s.parameters for s in task.rewards if s.name.startswith("tests-")), known)
        rewards = tuple(
            spec.model_copy(update={"parameters": tests})
            if spec.name.startswith("tests-") and not spec.parameters
            else spec
            for spec in self._rewards
        )
        return task.model_copy(update={"rewards": rewards})

    def prepare(self, task: Task) -> PreparedTask:
        """As the taskset's own."""
        return self._taskset.prepare(task)


def register(
    id: str, *, tasks: Tasks, rewards: Rewards | None = None, description: str = ""
) -> EnvEntry:
    """Register an environment.

    Args:
        id: its id; ``gymnasium.make`` knows it as ``m2gym/<id>-v0``.
        tasks: tasks, a taskset (or its registered name, or a function that makes it), or the path
            of a folder of Harbor-format tasks.
        rewards: names or functions, or name → weight. Without it each task's own count.
        description: one line for lists.
    """
    specs = None if rewards is None else reward_specs(rewards)
    make_tasks = _taskset_factory(id, tasks)

    def taskset(**settings: Any) -> Taskset:
        made = make_tasks(**settings)
        return made if specs is None else WithRewards(made, specs)

    entry = EnvEntry(id, taskset, description)
    ENVS.register(id, entry)
    gymnasium_ids.register(id)
    return entry


def env_entry(id: str) -> EnvEntry:
    """The entry of an environment; `UnknownIdError` names the nearest."""
    if id.startswith("harbor:"):
        from m2gym.envs.harbor import at

        return at(id.removeprefix("harbor:"))
    if id.startswith("swe-bench:"):
        from m2gym.envs import swe_bench

        return swe_bench.at(id.removeprefix("swe-bench:"))
    if id.startswith("impossible:"):
        from m2gym.envs import impossible

        return impossible.of(env_entry(id.removeprefix("impossible:")))
    found = ENVS.get(_bare(id))
    entry = found() if callable(found) and not isinstance(found, EnvEntry) else found
    if not isinstance(entry, EnvEntry):
        raise InputError(
            f"environment {id!r} is registered as {type(entry).__name__}, not EnvEntry"
        )
    return entry


def taskset_of(entry: EnvEntry, settings: Mapping[str, Any]) -> Taskset:
    """The environment's tasks.

    Raises:
        InputError: a setting is unknown, missing or refused.
    """
    try:
        return entry.taskset(**settings)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        needed = re.search(r"missing \d+ required .*arguments?: (.+)", str(error))
        if unknown is not None:
            text = f"environment {entry.id!r} and its taskset have no setting {unknown[1]}"
        elif needed is not None:
            text = f"environment {entry.id!r} needs the setting {needed[1]}"
        else:
            raise
        raise InputError(text) from error


def make_async(
    id: str,
    *,
    split: Split = "test",
    workspace: str = "auto",
    shaping: Potential | None = None,
    gamma: float = 1.0,
    **settings: Any,
) -> AsyncEnv:
    """The asynchronous environment; ``settings`` go to its taskset."""
    from m2gym.envs.async_env import AsyncEnv

    if split not in ("train", "test"):
        raise InputError(f"split is 'train' or 'test', got {split!r}")
    entry = env_entry(id)
    taskset = taskset_of(entry, settings)
    own = {} if entry.tools is None else {"tools": entry.tools}
    return AsyncEnv(
        entry.id,
        taskset,
        **own,
        split=split,
        workspace=workspace,
        shaping=shaping,
        gamma=gamma,
    )


def make(
    id: str,
    *,
    split: Split = "test",
    workspace: str = "auto",
    render_mode: str | None = None,
    **settings: Any,
) -> WorkspaceEnv:
    """A bare ``gymnasium.Env`` with ``tools``, ``submit()`` and ``fork(n)``.

    Args:
        id: an environment's id, such as ``"swe-repo"``.
        split: ``"test"`` or ``"train"``.
        workspace: ``"auto"``, or a kind of box by name.
        render_mode: ``None``, ``"ansi"`` or ``"human"``.
        settings: passed to the environment's taskset.
    """
    entry = env_entry(id)
    gymnasium_ids.register(entry.id)
    spec = copy.deepcopy(gymnasium.spec(gymnasium_ids.gymnasium_id(entry.id)))
    settings.update(split=split, workspace=workspace)
    env = make_env(entry.id, render_mode, **settings)
    spec.kwargs |= {"render_mode": render_mode, **settings}
    env.spec = spec
    return env


def make_vec(
    id: str,
    num_envs: int = 2,
    *,
    mode: str = "sync",
    autoreset: str = "next-step",
    **settings: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """A vector of environments in this process (``sync``) or one process each (``async``).

    Observations are text, so the asynchronous one never uses shared memory.

    Args:
        autoreset: ``"next-step"``, ``"same-step"`` or ``"disabled"``.
    """
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

    from m2gym.envs.vector import VectorMember

    modes = {
        "next-step": AutoresetMode.NEXT_STEP,
        "same-step": AutoresetMode.SAME_STEP,
        "disabled": AutoresetMode.DISABLED,
    }
    if mode not in ("sync", "async") or autoreset not in modes:
        raise InputError(
            f"mode is 'sync' or 'async' and autoreset one of {sorted(modes)}; "
            f"got {mode!r} and {autoreset!r}"
        )
    if settings.get("shared_memory"):
        raise InputError("text observations cannot live in shared memory; leave shared_memory out")
    settings.pop("shared_memory", None)
    env_entry(id)
    makers = [lambda: VectorMember(make(id, **settings)) for _ in range(num_envs)]
    if mode == "sync":
        return SyncVectorEnv(makers, autoreset_mode=modes[autoreset])
    return AsyncVectorEnv(makers, shared_memory=False, autoreset_mode=modes[autoreset])


def make_env(env_id: str, render_mode: str | None = None, **settings: Any) -> WorkspaceEnv:
    """Gymnasium's entry point for every environment of ours."""
    from m2gym.envs.env import WorkspaceEnv

    return WorkspaceEnv(make_async(env_id, **settings), render_mode)


def reward_specs(rewards: Rewards) -> tuple[RewardSpec, ...]:
    """Reward names, functions or weights as specs; functions are registered by their name."""
    if isinstance(rewards, Mapping):
        return tuple(RewardSpec(name=name, weight=weight) for name, weight in rewards.items())
    specs = []
    for reward in rewards:
        if isinstance(reward, RewardSpec):
            specs.append(reward)
        elif isinstance(reward, str):
            specs.append(RewardSpec(name=reward))
        else:
            name = reward.__name__.replace("_", "-")
            REWARDS.register(name, reward)
            specs.append(RewardSpec(name=name))
    return tuple(specs)


def _taskset_factory(id: str, tasks: Tasks) -> Callable[..., Taskset]:
    if isinstance(tasks, str | Path):
        if isinstance(tasks, str) and tasks in TASKSETS:
            named = tasks

            def registered(**settings: Any) -> Taskset:
                made: Taskset = TASKSETS.get(named)(**settings)
                return made

            return registered
        folder = Path(tasks)

        def from_folder(**settings: Any) -> Taskset:
            if not folder.is_dir():
                known = ", ".join(TASKSETS.names())
                raise InputError(
                    f"tasks={str(tasks)!r} is neither a folder nor a registered taskset ({known})"
                )

            from m2gym.tasksets.harbor.folder import FolderTaskset

            return FolderTaskset(folder, **settings)

        return from_folder
    if isinstance(tasks, Taskset):
        return lambda: tasks
    if callable(tasks):
        return tasks
    listed = list(tasks)

    def from_list() -> Taskset:
        from m2gym.tasksets.memory import ListTaskset

        return ListTaskset(id, listed)

    return from_list


def _bare(id: str) -> str:
    return id.removeprefix("m2gym/").removesuffix("-v0")
