"""``test-script``: a script of the task, run in the grading box, writes the reward to a file.

The convention is Harbor's: hidden tests lie in ``/tests``, ``/tests/test.sh`` writes
``/logs/verifier/reward.json`` (an object of finite numbers) or ``reward.txt`` (one number). No
number is an error of the verifier, never a reward of 0.
"""

from __future__ import annotations

import json
import math
from typing import Any

from m2gym.core.errors import VerifierError
from m2gym.core.verdict import Score
from m2gym.core.workspace import User, Workspace
from m2gym.rewards.functions import reward
from m2gym.rewards.grading import Grading

PLACE = "/tmp/harbor"
"""Where ``/tests``, ``/logs`` and ``/solution`` of the box lead."""
LINKS = {f"/{name}": f"{PLACE}/{name}" for name in ("tests", "logs", "solution")}
HIDDEN = ".m2gym-hidden"
"""The hidden folder's name in the work folder, from which its ``tests`` are moved to ``/tests``."""

PREPARE = (
    f"mkdir -p {PLACE}/logs && cd {PLACE} && rm -rf tests solution logs/verifier && "
    f"mkdir -p logs/verifier logs/agent logs/artifacts && "
    "chmod 777 . logs logs/agent logs/artifacts"
)
"""Run as root in the agent's box: the folders that Harbor's agents find, none of a verifier's."""

_SET_UP = (
    f"mkdir -p {PLACE}/logs/agent {PLACE}/logs/artifacts && rm -rf {PLACE}/logs/verifier && "
    f"mkdir {PLACE}/logs/verifier"
)
_TESTS = f"rm -rf {PLACE}/tests && mv {HIDDEN}/tests {PLACE}/tests && rm -rf {HIDDEN}"


@reward("test-script")
async def script_reward(
    grading: Grading,
    env: dict[str, str] | None = None,
    timeout: float = 600.0,
    user: User = "root",
    bundled: bool = False,
) -> Score:
    """Run ``/tests/test.sh`` once, as ``user``, ``timeout`` seconds at most.

    ``env`` is added to its environment; ``bundled`` says that the box's image holds ``/tests``.

    Raises:
        VerifierError: the script took too long, or left no finite number.
    """
    box = grading.workspace
    several = "users" in box.capabilities
    own = f" && chown {user} {PLACE}/logs/verifier" if several and user != "root" else ""
    script = f"{_SET_UP}{own}" if bundled else f"{_SET_UP}{own} && {_TESTS}"
    ready = await box.exec(script, user="root" if several else None)
    if not ready.ok:
        raise VerifierError(f"the tests could not be put in place: {ready.output[-400:]}")
    result = await box.exec(
        ["bash", "/tests/test.sh"],
        user=user if several else None,
        env=env or {},
        timeout=max(1.0, min(timeout, grading.budget())),
    )
    tail = result.output[-2000:]
    if result.timed_out:
        raise VerifierError(f"/tests/test.sh took longer than {timeout:g} seconds: {tail[-400:]!r}")
    rewards = await _read(box, tail)
    evidence = {"rewards": rewards, "exit_code": result.exit_code, "output": tail}
    return Score(value=one_reward(rewards), evidence=evidence)


async def _read(box: Workspace, tail: str) -> dict[str, float]:
    for name, parse in (("reward.json", json.loads), ("reward.txt", _number)):
        try:
            data = await box.read(f"{PLACE}/logs/verifier/{name}")
        except FileNotFoundError:
            continue
        try:
            return _checked(parse(data.decode("utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise VerifierError(
                f"/logs/verifier/{name} must hold finite numbers, got {data[:200]!r}: {error}"
            ) from error
    raise VerifierError(
        "/tests/test.sh wrote neither /logs/verifier/reward.json nor reward.txt; "
        f"its output ends {tail[-400:]!r}"
    )


def _number(text: str) -> dict[str, float]:
    return {"reward": float(text)}


def _checked(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise TypeError("expected an object with at least one number")
    for key, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{key!r} is no number")
        if not math.isfinite(number):
            raise ValueError(f"{key!r} is not finite")
    return {str(key): float(number) for key, number in value.items()}


def one_reward(rewards: dict[str, float]) -> float:
    """The number named ``reward``, or the only one.

    Raises:
        VerifierError: there are several of other names.
    """
    if "reward" in rewards:
        return rewards["reward"]
    if len(rewards) == 1:
        return next(iter(rewards.values()))
    raise VerifierError(
        f"reward.json has several numbers ({', '.join(rewards)}) and none is named 'reward'"
    )
