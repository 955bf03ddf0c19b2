"""A member of a vector: a box that dies masks this member, the others go on."""

from __future__ import annotations

import math
from typing import Any

import gymnasium

from m2gym.core.errors import EpisodeOverError, InfraError, InputError, VerifierError

Lost = InfraError | VerifierError


class VectorMember(gymnasium.Wrapper[str, Any, str, Any]):
    """Turns a lost box into truncated, a reward of NaN and ``info["valid"] = False``."""

    def __init__(self, env: gymnasium.Env[str, Any]) -> None:
        super().__init__(env)
        self._lost: Lost | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """As the member's; when its box cannot start, the next step is the masked one."""
        self._lost = None
        try:
            return super().reset(seed=seed, options=options)
        except (InfraError, VerifierError) as error:
            self._lost = error
            return "", self._info(error)

    def step(self, action: Any) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        """As the member's, or the masked one; a malformed action is answered by an observation."""
        if self._lost is None:
            try:
                return super().step(action)
            except EpisodeOverError:
                raise
            except InputError as error:
                return f"[{error}]", 0.0, False, False, {"valid": True, "error": str(error)}
            except (InfraError, VerifierError) as error:
                self._lost = error
        return "", math.nan, False, True, self._info(self._lost)

    @staticmethod
    def _info(error: Lost) -> dict[str, Any]:
        return {"valid": False, "cause": f"{type(error).__name__}: {error}"}
