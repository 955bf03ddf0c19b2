"""LiteLLM's providers against our own gateway: each speaks another dialect over real HTTP."""

import json

import pytest

from m2gym.backends.retry import Retry
from m2gym.core.protocols import ModelRequest
from m2gym.core.tools import ToolSchema
from m2gym.models.formats import byte_format
from m2gym.models.scripted import Call, ScriptedModel, Turn
from m2gym.models.scripted_engine import ScriptedEngine
from m2gym.models.session import RecordedSession
from m2gym.models.token_model import TokenModel

pytest.importorskip("litellm")
pytest.importorskip("aiohttp")

from m2gym.backends.litellm_backend import LiteLLMModel
from m2gym.gateway import Gateway

pytestmark = pytest.mark.filterwarnings("ignore")
SYSTEM = {"role": "system", "content": "Be good."}
ASK = {"role": "user", "content": "List the files."}
BASH = ToolSchema(
    name="bash", parameters={"type": "object", "properties": {"command": {"type": "string"}}}
)
TURNS = [
    Turn(
        thinking="I look first.",
        text="Looking.",
        calls=(Call(name="bash", arguments={"command": "ls"}),),
    ),
    Turn(thinking="That is all.", text="One file: a.py"),
]


DIALECTS = [
    ("openai/gpt-4o-mini", "/v1"),
    ("anthropic/claude-sonnet-4-5", ""),
    ("gemini/gemini-2.5-flash", "/v1beta"),
]
CALL = (
    'I look first.\n</think>\n\nLooking.\n<minimax:tool_call>\n<invoke name="bash">\n'
    '<parameter name="command">ls  -la</parameter>\n</invoke>\n</minimax:tool_call>'
)


async def test_every_dialect_leaves_the_same_tokens():
    """A model of ours behind the gateway, called by three other protocols: one record, exact."""
    records = []
    for name, path in DIALECTS:
        form = byte_format()
        engine = ScriptedEngine(form, [CALL, "All.\n</think>\n\nOne file: a.py"])
        inner = RecordedSession(TokenModel(engine, form))
        gateway = Gateway()
        await gateway.start()
        try:
            access = gateway.add(inner)
            model = LiteLLMModel(
                name, api_base=f"{gateway.base_url}{path}", api_key=access.secret,
                retry=Retry(tries={}),
            )  # fmt: skip
            outer = RecordedSession(model)
            first = await outer.complete(ModelRequest([SYSTEM, ASK], (BASH,)))
            id = first.message["tool_calls"][0]["id"]
            result = {"role": "tool", "tool_call_id": id, "content": "a.py"}
            await outer.complete(ModelRequest([SYSTEM, ASK, first.message, result], (BASH,)))
        finally:
            await gateway.stop()
        assert [c.parent for c in inner.completions] == [None, 0]
        assert inner.counts.drifted == 0
        records.append(
            [(c.prompt_ids, c.response_ids, c.logprobs, c.messages) for c in inner.completions]
        )
    assert records[0] == records[1] == records[2]


@pytest.mark.parametrize(("name", "path"), DIALECTS)
async def test_a_turn_with_thinking_and_a_tool_and_the_next(name, path):
    gateway = Gateway()
    await gateway.start()
    try:
        inner = RecordedSession(ScriptedModel(TURNS))
        access = gateway.add(inner)
        model = LiteLLMModel(
            name,
            api_base=f"{gateway.base_url}{path}",
            api_key=access.secret,
            retry=Retry(tries={}),
            send_thinking=True,
            **({"reasoning_effort": "low"} if name.startswith("anthropic") else {}),
        )
        outer = RecordedSession(model)
        first = await outer.complete(ModelRequest([SYSTEM, ASK], (BASH,)))
        (call,) = first.message["tool_calls"]
        assert call["function"]["name"] == "bash"
        assert json.loads(call["function"]["arguments"]) == {"command": "ls"}
        assert first.message["content"] == "Looking."
        result = {"role": "tool", "tool_call_id": call["id"], "content": "a.py"}
        second = await outer.complete(ModelRequest([SYSTEM, ASK, first.message, result], (BASH,)))
        assert second.message["content"] == "One file: a.py"
        assert second.usage.prompt_tokens == inner.completions[1].usage.prompt_tokens
        assert [c.parent for c in inner.completions] == [None, 0]
        assert [c.parent for c in outer.completions] == [None, 0]
        assert inner.completions[1].messages[0]["content"] == "a.py"
        assert inner.counts.forks == 0
        if name.startswith("anthropic"):
            assert first.message["reasoning_content"] == "I look first."
            assert outer.completions[0].message["reasoning_opaque"][0]["signature"]
    finally:
        await gateway.stop()
