"""Episodes on the nodes of a Ray cluster; gates, retries and the run folder stay with the driver.

    driver: plan ─ gates ─ retries ─ one run folder
       │  attempt (ids and numbers)                ▲  record and artifacts, once
       ▼                                           │
    actor on a node: environment, agent and model made anew from their names ─ run_episode

Each episode is one task of Ray with ``max_retries=0``: a lost node is a failed try with the cause
``node`` that the driver's own retries count, and nothing of it was recorded. Boxes are of the node
that runs the episode. The driver's limits on model calls and graders bound episodes under way only
here (each node has its own gates): use ``boxes`` and ``episodes``.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from m2gym.core.errors import InfraError, InputError
from m2gym.core.protocols import Model, Scaffold
from m2gym.core.trajectory import Trajectory
from m2gym.rollout.artifacts import KeptArtifacts
from m2gym.rollout.driver import Attempt, never_ran
from m2gym.rollout.limits import EpisodeLimits
from m2gym.rollout.run_info import RunConfig

CPUS = 1.0
"""Processors that one episode reserves on its node; the project's choice."""


class NodeLostError(InfraError):
    """The node that ran an episode is gone."""

    cause_word = "node"


class RayExecutor:
    """Runs episodes in a cluster: ``address`` of one, or one of this machine's own.

    Raises:
        InputError: Ray is not installed; or the agent or model is an object, which another machine
            cannot make anew; or there is no cluster at the address.
    """

    def __init__(
        self,
        config: RunConfig,
        agent: str | Scaffold,
        model: str | Model | None,
        *,
        address: str | None = None,
    ) -> None:
        if not isinstance(agent, str) or not (model is None or isinstance(model, str)):
            raise InputError(
                "on a cluster the agent and the model are named by text, such as 'react' or "
                "'module:Class', so that every node can make its own"
            )
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise InputError("--executor ray needs Ray: pip install 'm2gym[ray]'") from error
        self._own = not self._ray.is_initialized()
        if self._own:
            try:
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError) as error:
                raise InputError(f"no Ray cluster at {address!r}: {error}") from error
        self._spec = (agent, model)
        self._remote = self._ray.remote(num_cpus=CPUS, max_retries=0)(run_there)

    async def run(self, attempt: Attempt) -> Trajectory:
        """One episode on some node; its artifacts are kept here."""
        agent, model = self._spec
        budget = attempt.budget
        order = {
            "env": attempt.env.id,
            "agent": agent,
            "model": model,
            "task": attempt.task.id,
            "hash": attempt.task.content_hash(),
            "workspace": attempt.workspace,
            "seed": attempt.seed,
            "number": attempt.number,
            "budget": None if budget is None else vars(budget),
            "limits": attempt.limits.model_dump(),
            "keep": attempt.keep is not None,
        }
        reference = self._remote.remote(order)
        errors = self._ray.exceptions
        try:
            record, kept = await reference
        except asyncio.CancelledError:
            self._ray.cancel(reference, force=True)
            raise
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.RayActorError) as error:
            return never_ran(attempt, NodeLostError(_line(error)))
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, (InputError, InfraError)) else None
            if isinstance(cause, InputError):
                raise cause from None
            return never_ran(attempt, InfraError(f"the episode's process failed: {_line(error)}"))
        except errors.RayError as error:
            return never_ran(attempt, NodeLostError(_line(error)))
        trajectory = Trajectory.model_validate_json(record)
        if kept is not None and attempt.keep is not None:
            owner = getattr(attempt.keep, "__self__", None)
            if owner is not None:
                await asyncio.to_thread(owner.put, trajectory.id, kept)
        return trajectory

    async def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        if self._own:
            await asyncio.to_thread(self._ray.shutdown)


def run_there(order: dict[str, Any]) -> tuple[str, bytes | None]:
    """On a node: make everything anew from its name, and run the episode."""
    return asyncio.run(_run_there(order))


async def _run_there(order: dict[str, Any]) -> tuple[str, bytes | None]:
    import m2gym  # noqa: F401  # registers what is built in
    from m2gym.envs.catalog import env_entry
    from m2gym.models.budget import Budget
    from m2gym.rollout.driver import run_episode
    from m2gym.rollout.gates import Gates
    from m2gym.rollout.sessions import as_model
    from m2gym.scaffolds.agents import parse_agent
    from m2gym.scaffolds.blackbox.contract import mounts_of

    entry = env_entry(order["env"])
    taskset = entry.taskset()
    task = taskset.task(order["task"])
    if task.content_hash() != order["hash"]:
        raise InputError(f"task {task.id!r} has another content on this node; install one version")
    scaffold = parse_agent(order["agent"])
    answers, named = as_model(order["model"])
    keeper = KeptArtifacts()
    trajectory = await run_episode(
        Attempt(
            env=entry,
            taskset=taskset,
            task=task,
            scaffold=scaffold,
            agent=order["agent"],
            model=named,
            workspace=order["workspace"],
            seed=order["seed"],
            number=order["number"],
            answers=answers,
            budget=Budget(**order["budget"]) if order["budget"] is not None else None,
            mounts=await asyncio.to_thread(mounts_of, scaffold),
            limits=EpisodeLimits.model_validate(order["limits"]),
            gates=Gates(),
            keep=keeper.keep if order["keep"] else None,
        )
    )
    return trajectory.model_dump_json(), keeper.packed


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
