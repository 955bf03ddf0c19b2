"""Agents that live elsewhere: a real A2A server, a plain HTTP one, both acting over MCP."""

import asyncio
import json
import re
import socket
import threading

import pytest

import m2gym
from m2gym.core.errors import InputError
from m2gym.core.protocols import ModelRequest
from m2gym.models import RecordedSession, load_model
from m2gym.models.scripted import ScriptedModel
from m2gym.scaffolds.agents import describe, parse_agent
from m2gym.scaffolds.remote import Remote


@m2gym.reward("remote-hello")
def remote_hello(artifacts):
    return float("out.txt" in artifacts and artifacts.text("out.txt").strip() == "hello")


@pytest.fixture
def run(bwrap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = m2gym.Task(
        id="t",
        instruction="Write hello into out.txt.",
        files={"a.txt": "x"},
        rewards=[m2gym.RewardSpec(name="remote-hello")],
        limits=m2gym.Limits(seconds=240),
    )
    m2gym.register("remote-env", tasks=[task])

    def run(agent, **options):
        [episode] = m2gym.evaluate("remote-env", agent=agent, progress=False, **options)
        return episode

    return run


async def work(mcp):
    """What both agents do: find the tools, write the file, submit."""
    from mcp import Client

    async with Client(mcp) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        await client.call_tool("bash", {"command": "echo hello > out.txt"})
        await client.call_tool("submit", {})
    return names


@pytest.fixture
def serve():
    """Serve a Starlette application on loopback; its address."""
    uvicorn = pytest.importorskip("uvicorn")
    servers = []

    def start(app):
        sock = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def a2a_app(url):
    """A real agent of the A2A SDK."""
    pytest.importorskip("a2a")
    from a2a.server.agent_execution import AgentExecutor
    from a2a.server.request_handlers import DefaultRequestHandler
    from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
    from a2a.server.tasks import InMemoryTaskStore
    from a2a.types import (
        AgentCapabilities,
        AgentCard,
        AgentInterface,
        AgentSkill,
        Message,
        Part,
        Role,
    )
    from starlette.applications import Starlette

    class Executor(AgentExecutor):
        async def execute(self, context, event_queue):
            told = context.get_user_input()
            [mcp] = re.findall(r"http://\S+/mcp", told)
            names = await work(mcp)
            text = f"I used {', '.join(names)}."
            said = Message(
                message_id="m1",
                role=Role.ROLE_AGENT,
                parts=[Part(text=text)],
                task_id=context.task_id,
                context_id=context.context_id,
            )
            await event_queue.enqueue_event(said)

        async def cancel(self, context, event_queue):
            raise AssertionError("not cancelled here")

    card = AgentCard(
        name="writer",
        description="writes files",
        version="1",
        supported_interfaces=[
            AgentInterface(url=f"{url}/", protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=AgentCapabilities(streaming=False),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="w", name="write", description="writes", tags=["files"])],
    )
    handler = DefaultRequestHandler(
        agent_executor=Executor(), task_store=InMemoryTaskStore(), agent_card=card
    )
    return Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def test_an_a2a_agent_acts_through_mcp(run):
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("litellm")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(uvicorn.Config(a2a_app(url), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        episode = run(parse_agent(f"remote:{url}"))
    finally:
        server.should_exit = True
        thread.join(10)
    assert episode.error is None
    assert (episode.verdict.reward, episode.verdict.stop) == (1.0, "submitted")
    assert [step.action["name"] for step in episode.steps] == ["bash", "submit", "remote"]
    assert "I used bash" in episode.steps[-1].observation
    assert "sk-m2gym" not in json.dumps(episode.steps[-1].action)


def http_app(answer):
    starlette = pytest.importorskip("starlette.applications")
    from starlette.routing import Route

    return starlette.Starlette(routes=[Route("/do", answer, methods=["POST"])])


def test_a_plain_http_agent_acts_and_asks_the_model(run, serve):
    from starlette.responses import PlainTextResponse

    async def answer(request):
        openai = pytest.importorskip("openai")
        told = await request.json()
        await work(told["mcp"])
        model = told["model"]
        client = openai.AsyncOpenAI(base_url=f"{model['base_url']}/v1", api_key=model["key"])
        said = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": told["instruction"]}]
        )
        return PlainTextResponse(said.choices[0].message.content)

    episode = run(
        Remote(f"{serve(http_app(answer))}/do", protocol="http"), model=ScriptedModel(["All done."])
    )
    assert episode.error is None
    assert episode.verdict.reward == 1.0
    assert episode.steps[-1].observation == "All done."
    assert len(episode.completions) == 1


def test_an_agent_that_fails_or_is_not_there_is_nobodys_score(run, serve):
    from starlette.responses import PlainTextResponse

    async def answer(request):
        return PlainTextResponse("out of order", status_code=500)

    url = serve(http_app(answer))
    episode = run(parse_agent(f"remote:http,{url}/do"))
    assert episode.verdict.status == "infra_error"
    assert "answered 500: out of order" in episode.error
    nobody = f"http://127.0.0.1:{free_port()}"
    for agent in (Remote(nobody, protocol="http"), Remote(nobody)):
        episode = run(agent)
        assert episode.verdict.status == "infra_error", episode.error


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(InputError, match="begins with http"):
        Remote("ftp://x")
    with pytest.raises(InputError, match="protocol is a2a"):
        parse_agent("remote:smoke,http://x")
    assert parse_agent("remote:langgraph/a").protocol == "litellm"
    described = describe(Remote("http://h", headers={"Authorization": "Bearer x"}))
    assert "Bearer" not in json.dumps(described)


def langgraph_app(seen, *, fails=False):
    """What LangGraph's server has of its HTTP API for a stateless run, waited for or streamed.

    Its agent acts as the others do: by the MCP server that it is told of.
    """
    starlette = pytest.importorskip("starlette.applications")
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def work_done(request):
        asked = await request.json()
        seen.append((request.url.path, asked))
        told = asked["input"]["messages"][-1]
        assert told["role"] == "human"
        if found := re.findall(r"http://\S+/mcp", told["content"]):
            await work(found[0])
        return "I used the tools."

    async def wait(request):
        if fails:
            return JSONResponse({"detail": "the graph failed"}, status_code=500)
        said = {"type": "ai", "content": await work_done(request)}
        return JSONResponse({"messages": [{"type": "human", "content": "…"}, said]})

    async def stream(request):
        if fails:
            return JSONResponse({"detail": "the graph failed"}, status_code=500)
        text = await work_done(request)

        async def events():
            for word in text.split(" "):
                chunk = [{"type": "AIMessageChunk", "content": word + " "}, {"langgraph_step": 1}]
                yield f"event: messages\ndata: {json.dumps(['messages', [chunk]])}\n\n"
            yield f"event: metadata\ndata: {json.dumps(['metadata', {'run_id': 'r1'}])}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return starlette.Starlette(
        routes=[
            Route("/runs/wait", wait, methods=["POST"]),
            Route("/runs/stream", stream, methods=["POST"]),
        ]
    )


@pytest.mark.filterwarnings("ignore")
def test_a_langgraph_agent_by_litellms_name_acts_through_mcp(run, serve, monkeypatch):
    pytest.importorskip("litellm")
    seen = []
    monkeypatch.setenv("LANGGRAPH_API_BASE", serve(langgraph_app(seen)))
    episode = run(parse_agent("remote:langgraph/my-graph"))
    assert episode.error is None
    assert (episode.verdict.reward, episode.verdict.stop) == (1.0, "submitted")
    assert [step.action["name"] for step in episode.steps] == ["bash", "submit", "remote"]
    assert episode.steps[-1].observation == "I used the tools."
    [(path, asked)] = seen
    assert (path, asked["assistant_id"]) == ("/runs/wait", "my-graph")


@pytest.mark.filterwarnings("ignore")
def test_a_langgraph_agent_that_fails_or_is_not_there_is_nobodys_score(run, serve, monkeypatch):
    pytest.importorskip("litellm")
    for url in (serve(langgraph_app([], fails=True)), f"http://127.0.0.1:{free_port()}"):
        monkeypatch.setenv("LANGGRAPH_API_BASE", url)
        episode = run(parse_agent("remote:langgraph/my-graph"))
        assert episode.verdict.status == "infra_error"
        assert "langgraph/my-graph" in episode.error


@pytest.mark.filterwarnings("ignore")
async def test_a_langgraph_agent_is_a_model_too(serve):
    """``--model langgraph/ID``: recorded as any model's answer."""
    pytest.importorskip("litellm")
    seen = []
    url = serve(langgraph_app(seen))
    session = RecordedSession(load_model(f"langgraph/my-graph?api_base={url}"))
    said = await session.complete(ModelRequest([{"role": "user", "content": "Hi"}]))
    assert said.message["content"].strip() == "I used the tools."
    assert seen[0][1]["assistant_id"] == "my-graph"
    assert len(session.completions) == 1
