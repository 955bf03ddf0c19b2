"""An episode's tools over MCP, with the official client and by hand."""

from __future__ import annotations

import asyncio

import pytest
from mcp import Client

import m2gym
from tests.envs import tiny
from tests.gateway.sessions import Say, Talk

pytestmark = pytest.mark.usefixtures("bwrap")


@pytest.fixture
async def episode():
    env = m2gym.make_async(tiny.register("tiny-mcp"))
    await env.reset(seed=0)
    yield env.episode
    await env.close()


async def test_the_official_client_solves_an_episode(gateway, episode):
    access = gateway.add(episode=episode)
    async with Client(access.mcp) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(listed) == {schema.name for schema in episode.tools}
        assert listed["bash"].input_schema["required"] == ["command"]
        seen = await client.call_tool("bash", {"command": "echo hi > out.txt; cat out.txt"})
        assert seen.content[0].text.strip() == "hi"
        assert not seen.is_error
        wrong = await client.call_tool("read_file", {"path": "/no/such/file"})
        assert wrong.is_error
        assert "no/such/file" in wrong.content[0].text
        bad = await client.call_tool("bash", {"cmd": "ls"})
        assert bad.is_error
        ended = await client.call_tool("submit", {})
        assert "the episode has ended" in ended.content[0].text
        late = await client.call_tool("bash", {"command": "ls"})
        assert late.is_error
    assert episode.verdict.reward == 1.0
    assert [step.action["name"] for step in episode.steps][-1] == "submit"


async def test_handshake_names_the_task_and_a_version_both_know(gateway, episode):
    access = gateway.add(episode=episode)
    async with Client(access.mcp, mode="legacy") as client:
        assert episode.task.instruction.rstrip() in client.instructions


async def rpc(http, access, **fields):
    async with http.post(access.mcp, json={"jsonrpc": "2.0", **fields}) as got:
        return got.status, await got.json() if got.status != 202 else None


async def test_what_is_no_request_is_told_so(gateway, http, episode):
    access = gateway.add(episode=episode)
    status, answer = await rpc(
        http, access, id=1, method="initialize", params={"protocolVersion": "x"}
    )
    assert (status, answer["result"]["protocolVersion"]) == (200, "2025-11-25")
    assert (await rpc(http, access, method="notifications/initialized")) == (202, None)
    _, answer = await rpc(http, access, id=2, method="resources/list")
    assert answer["error"]["code"] == -32601
    _, answer = await rpc(http, access, id=3, method="tools/call", params={"name": "fly"})
    assert answer["error"]["code"] == -32602
    async with http.post(access.mcp, data=b"{") as got:
        assert (got.status, (await got.json())["error"]["code"]) == (400, -32700)
    async with http.post(access.mcp, json=[1]) as got:
        assert (got.status, (await got.json())["error"]["code"]) == (400, -32600)
    async with http.get(access.mcp) as got:
        assert got.status == 405
    assert not episode.steps


async def test_a_secret_opens_its_own_episode_only(gateway, http, episode):
    access = gateway.add(episode=episode)
    model = gateway.add(Talk([Say("x")]))
    status, answer = await rpc(http, model, id=1, method="tools/list")
    assert (status, "opens a model" in answer["error"]["message"]) == (404, True)
    async with http.post(gateway.base_url + "/mcp", json={}) as got:
        assert got.status == 401
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    async with http.post(access.url + "/v1/chat/completions", json=chat) as got:
        assert got.status == 404
    gateway.remove(access.secret)
    status, _ = await rpc(http, access, id=1, method="tools/list")
    assert status == 401


async def test_actions_of_one_episode_are_done_one_after_the_other(gateway, http, episode):
    access = gateway.add(episode=episode)
    calls = [
        rpc(
            http, access, id=n, method="tools/call",
            params={"name": "bash", "arguments": {"command": f"echo {n} >> log; sleep 0.05"}},
        )
        for n in range(5)
    ]  # fmt: skip
    await asyncio.gather(*calls)
    assert len(episode.steps) == 5
