"""Inspect's own checks of a sandbox over our workspaces; run by ``test_inspect.py``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from m2gym.workspaces.inspect_sandbox import M2GymSandboxEnvironment

CANNOT = {"test_exec_as_user": "a box's users are fixed"}


@pytest_asyncio.fixture(params=os.environ["M2GYM_KINDS"].split(","))
async def sandbox_env(request: pytest.FixtureRequest) -> AsyncIterator[M2GymSandboxEnvironment]:
    name = request.node.originalname
    if name in CANNOT:
        request.node.add_marker(pytest.mark.xfail(reason=CANNOT[name], strict=True))
    made = await M2GymSandboxEnvironment.sample_init("check", request.param, {})
    yield made["default"].as_type(M2GymSandboxEnvironment)
    await M2GymSandboxEnvironment.sample_cleanup("check", request.param, made, False)
