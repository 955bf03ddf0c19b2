"""Our environments for TRL's ``GRPOTrainer``: its ``environment_factory``.

```python
from m2gym.backends.trl_environment import environment_factory, rows

trainer = GRPOTrainer(
    model, args=config, train_dataset=Dataset.from_list(rows("tool-use", limit=100)),
    environment_factory=environment_factory("tool-use"),
)
```

Each tool of the environment is a method that the model may call; the reward is the verdict's. TRL
counts on a class whose methods have signatures and docstrings, so one is made for the environment.
An episode that could not be graded, or was graded in the agent's own box (``isolation: shared``),
has reward ``None``, which TRL leaves out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.task import Split
from m2gym.core.tools import ToolSchema
from m2gym.envs.catalog import env_entry, make, taskset_of
from m2gym.envs.env import WorkspaceEnv

KINDS: dict[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}
OVER = "The episode is over."
RESERVED = ("reset", "get_reward")
"""Names that TRL uses itself."""


class Adapted:
    """One environment, made once and reset for every rollout; subclasses have its tools.

    ``verdict`` is that of the last rollout.
    """

    _env: WorkspaceEnv
    _reward: float | None

    def reset(self, task: str | None = None, **row: Any) -> str:
        """Begin a rollout of ``task`` (any, where none is named); what the model is told."""
        observation, _ = self._env.reset(options={"task": task} if task is not None else None)
        self._reward, self._done = None, False
        return observation

    def get_reward(self) -> float | None:
        """Grade what there is, if that was not done yet."""
        while not self._done:
            *_, ended, cut, info = self._env.submit()
            if ended or cut:
                self._end(info)
        return self._reward

    def _call(self, name: str, arguments: dict[str, Any]) -> str:
        if self._done:
            return OVER
        text, _, ended, cut, info = self._env.step({"name": name, "arguments": arguments})
        if ended or cut:
            self._end(info)
        return text

    def _end(self, info: dict[str, Any]) -> None:
        verdict = info.get("verdict")
        self._done, self._reward = True, None
        if verdict is not None and verdict.isolation == "fresh":
            self._reward = verdict.reward


def environment_factory(
    env: str,
    *,
    split: Split = "train",
    workspace: str = "auto",
    tools: Sequence[str] | None = None,
    **settings: Any,
) -> Callable[[], Adapted]:
    """A class of environments for TRL.

    Args:
        env, split, workspace, settings: as `m2gym.make` takes them.
        tools: names of those that the model may call; all that the first task has when left out.

    Raises:
        InputError: an unknown tool, or one under a name that TRL uses itself.
    """
    probe = make(env, split=split, workspace=workspace, **settings)
    try:
        probe.reset(options={"task": _ids(env, split, settings)[0]})
        offered = {tool.name: tool for tool in probe.tools}
    finally:
        probe.close()
    names = list(offered) if tools is None else list(tools)
    wrong = [name for name in names if name not in offered or name in RESERVED]
    if wrong:
        raise InputError(f"{env} has no tool {wrong[0]!r} to offer; it has {sorted(offered)}")

    def init(self: Any) -> None:
        self._env = make(env, split=split, workspace=workspace, **settings)
        self._reward, self._done = None, True

    methods = {name: _method(offered[name]) for name in names}
    return type(f"{env.title().replace('-', '')}Env", (Adapted,), {"__init__": init, **methods})


def rows(
    env: str, *, split: Split = "train", limit: int | None = None, prompt: str = "", **settings: Any
) -> list[dict[str, Any]]:
    """Rows of a training set, one a task: its id, and a chat whose last message is ``prompt``, to
    which TRL adds what the environment says."""
    ids = _ids(env, split, settings)[:limit]
    return [{"prompt": [{"role": "user", "content": prompt}], "task": task} for task in ids]


def _ids(env: str, split: Split, settings: dict[str, Any]) -> Sequence[str]:
    found: Sequence[str] = taskset_of(env_entry(env), settings).ids(split)
    if not found:
        raise InputError(f"{env} has no task in split {split!r}")
    return found


def _method(tool: ToolSchema) -> Callable[..., str]:
    """A method of the tool's name with its parameters, types and descriptions."""
    properties = tool.parameters.get("properties", {})
    required = set(tool.parameters.get("required", ()))

    def method(self: Any, *args: Any, **arguments: Any) -> str:
        given = {**dict(zip(properties, args, strict=False)), **arguments}
        return str(self._call(tool.name, given))

    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    types: dict[str, Any] = {"return": str}
    described = []
    for name, schema in sorted(properties.items(), key=lambda item: item[0] not in required):
        types[name] = KINDS.get(str(schema.get("type")), str)
        default = inspect.Parameter.empty if name in required else schema.get("default")
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default,
                annotation=types[name],
            )
        )  # fmt: skip
        described.append(f"    {name}: {schema.get('description') or f'the {name}'}")
    method.__name__ = method.__qualname__ = tool.name
    method.__annotations__ = types
    signature = inspect.Signature(parameters, return_annotation=str)
    method.__signature__ = signature  # type: ignore[attr-defined]
    lines = [tool.description or tool.name, "", "Args:", *described]
    returns = ["", "Returns:", "    what the environment answers"]
    method.__doc__ = "\n".join([*(lines if described else lines[:1]), *returns])
    return method
