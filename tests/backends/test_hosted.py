"""Hosted tools by LiteLLM: asked for in each provider's form, what came is on record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2gym.backends.hosted import given_back
from m2gym.backends.retry import Retry
from m2gym.backends.wire import Assembler, tools_for
from m2gym.core.errors import ModelError
from m2gym.core.protocols import ModelRequest
from m2gym.core.tools import HostedTool, ToolSchema
from m2gym.models.scripted import Hosted, ScriptedModel, Turn
from m2gym.models.session import RecordedSession

pytest.importorskip("litellm")
pytest.importorskip("aiohttp")

from m2gym.backends.litellm_backend import LiteLLMModel
from m2gym.gateway import Gateway

pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = {"type": "web_search_result", "url": "https://example.org/a", "title": "A"}
ANTHROPIC = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
ASK = {"role": "user", "content": "go"}
FOREIGN = HostedTool(name="web_search", dialect="responses", declared={"type": "web_search"})
CODE = HostedTool(name="code_interpreter", dialect="responses", declared={"type": "x"})


async def searched(name, path, hosted):
    """Two turns through LiteLLM and our own gateway as its provider: both records."""
    turn = Turn(
        text="found", hosted=(Hosted(name="web_search", input={"query": "a"}, output=[PAGE]),)
    )
    inner = RecordedSession(ScriptedModel([turn, "ok"]))
    gateway = Gateway()
    await gateway.start()
    try:
        access = gateway.add(inner, granted=["web_search", "googleSearch"])
        model = LiteLLMModel(
            name,
            api_base=gateway.base_url + path,
            api_key=access.secret,
            retry=Retry(tries={}),
        )
        outer = RecordedSession(model)
        first = await outer.complete(ModelRequest([ASK], hosted=(hosted,)))
        more = [ASK, first.message, {"role": "user", "content": "and?"}]
        await outer.complete(ModelRequest(more, hosted=(hosted,)))
    finally:
        await gateway.stop()
    assert [c.parent for c in inner.completions] == [None, 0]
    assert [c.parent for c in outer.completions] == [None, 0]
    return inner, outer


@pytest.mark.parametrize(
    ("hosted", "declared"),
    [
        (HostedTool(name="web_search", dialect="messages", declared=ANTHROPIC), ANTHROPIC),
        (FOREIGN, {"type": "web_search_20250305", "name": "web_search"}),
    ],
)
async def test_anthropics_search(hosted, declared):
    inner, outer = await searched("anthropic/claude-sonnet-4-5", "", hosted)
    assert inner.completions[0].tools[-1]["hosted"]["declared"] == declared
    [call] = outer.completions[0].message["hosted"]
    assert call == {
        "id": "srvtoolu_hosted_0_0", "name": "web_search", "input": {"query": "a"},
        "output": [PAGE],
    }  # fmt: skip
    assert "tool_calls" not in outer.completions[0].message
    assert outer.completions[0].finish_reason == "stop"


async def test_openais_search():
    inner, outer = await searched("openai/gpt-4o-search-preview", "/v1", FOREIGN)
    assert inner.completions[0].tools[-1]["hosted"]["dialect"] == "chat"
    [call] = outer.completions[0].message["hosted"]
    assert call["output"] == [{"url": PAGE["url"], "title": "A"}]


@pytest.mark.parametrize(
    "hosted",
    [FOREIGN, HostedTool(name="googleSearch", dialect="gemini", declared={"googleSearch": {}})],
)
async def test_googles_search_is_asked_for(hosted):
    inner, _ = await searched("gemini/gemini-2.5-flash", "/v1beta", hosted)
    assert inner.completions[0].tools[-1]["hosted"]["declared"] == {"googleSearch": {}}


def test_googles_metadata_are_on_record():
    """LiteLLM gives them with a chunk that has text."""
    whole = Assembler()
    found = {
        "webSearchQueries": ["a"],
        "groundingChunks": [{"web": {"uri": PAGE["url"], "title": "A"}}, {"maps": {}}],
    }
    chunk = {"choices": [{"delta": {"content": "x"}}], "vertex_ai_grounding_metadata": [found]}
    assert [delta.text for delta in whole.feed(chunk)] == ["x"]
    [call] = whole.message["hosted"]
    assert call["input"] == {"queries": ["a"]}
    assert call["output"] == [{"url": PAGE["url"], "title": "A"}]


def test_a_tool_without_a_form_for_the_provider_is_refused():
    with pytest.raises(ModelError, match="code_interpreter"):
        tools_for(ModelRequest([ASK], hosted=(CODE,)), "messages")
    with pytest.raises(ModelError, match="web_search"):
        tools_for(ModelRequest([ASK], hosted=(FOREIGN,)), "messages", web_search=False)


async def test_a_provider_without_a_search_refuses():
    model = LiteLLMModel("deepseek/deepseek-chat", retry=Retry(tries={}), api_key="k")
    session = RecordedSession(model)
    with pytest.raises(ModelError, match="cannot be passed"):
        await session.complete(ModelRequest([ASK], (ToolSchema(name="f"),), hosted=(CODE,)))
    assert [fault.cause for fault in session.faults] == ["refused"]


TOLD = (
    "annotations url_citation url provider_specific_fields server_tool_calls function id name "
    "arguments web_search_results tool_results tool_use_id content web uri webSearchQueries "
    "groundingChunks"
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TOLD.split()), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(anything, anything)
def test_whatever_is_told_is_read_or_passed_over(beside, delta):
    whole = Assembler()
    chunk = {"vertex_ai_grounding_metadata": beside, "choices": [{"delta": {"annotations": delta,
             "provider_specific_fields": delta, "content": "x"}}]}  # fmt: skip
    assert [d.text for d in whole.take([chunk])] == ["x"]
    for call in whole.message.get("hosted", ()):
        assert set(call) == {"id", "name", "input", "output"}


def test_searches_and_other_calls_go_back_apart():
    ran = [
        {"id": "srvtoolu_1", "name": "web_search", "input": {"query": "a"}, "output": [PAGE]},
        {"id": "srvtoolu_2", "name": "code_execution", "input": {"code": "1"}, "output": "1"},
        {"id": "hosted_0", "name": "web_search", "input": {}, "output": []},
    ]
    back = given_back({"content": "x", "hosted": ran})
    assert [call["id"] for call in back["tool_calls"]] == ["srvtoolu_1", "srvtoolu_2"]
    fields = back["provider_specific_fields"]
    assert [r["tool_use_id"] for r in fields["web_search_results"]] == ["srvtoolu_1"]
    assert [r["tool_use_id"] for r in fields["tool_results"]] == ["srvtoolu_2"]
    assert given_back({"content": "x"}) == {}
