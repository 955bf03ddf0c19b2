"""A running gateway on loopback, and a plain HTTP client."""

from __future__ import annotations

import aiohttp
import pytest

from m2gym.gateway import Gateway


@pytest.fixture
async def gateway():
    gateway = Gateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(trust_env=False) as client:
        yield client
