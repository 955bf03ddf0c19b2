"""A rollout server that is gone is infrastructure's failure, never the agent's."""

from __future__ import annotations

from typing import Any

import pytest

from m2gym.core.errors import ModelError
from m2gym.core.protocols import Sampling
from tests.backends.verl.needs import verl_here

pytestmark = pytest.mark.verl


class Gone:
    """As verl's server manager answers when its server's process has died."""

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        from m2gym.backends.verl.api import ray

        raise ray.exceptions.ActorDiedError()


async def test_a_dead_server_is_a_model_that_does_not_answer() -> None:
    verl_here()
    from m2gym.backends.verl.agent_loop import ServedEngine

    with pytest.raises(ModelError, match="the rollout server failed") as error:
        await ServedEngine(Gone(), 0).generate([1], Sampling(), session_id="s")
    assert error.value.cause == "server"
